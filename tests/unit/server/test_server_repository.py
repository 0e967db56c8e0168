"""Several models and versions in one process: found, loaded on demand, replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.server_app import FULL, Answer, expected
from tests.server_shelf import BIASES, Shelf, code_of, version_of

from tidemill.errors import IntegrityError, NotFound
from tidemill.server import Served, repository
from tidemill.server.protocol import Rejected
from tidemill.server.rpc.health import Health
from tidemill.server.rpc.service import Service
from tidemill.server.trail import Trail
from tidemill.testing.models import write_bundle


def test_the_index_tells_what_there_is_and_what_is_loaded(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "LISTING_SECONDS", 0.0)
    shelf.open(model_memory_mb=13).fill()
    shelf.spoil("taxi", "8")
    index = shelf.run(shelf.index)
    assert {key: state for key, (state, _) in index.items()} == {
        "late/1": "UNAVAILABLE",
        "late/2": "READY",
        "late/10": "READY",
        "taxi/7": "READY",
        "taxi/8": "UNAVAILABLE",
    }
    assert list(index) == ["late/1", "late/2", "late/10", "taxi/7", "taxi/8"]
    assert index["late/1"][1] == "not loaded; loaded when asked for"
    assert set(shelf.run(lambda: shelf.index(ready=True))) == {"late/2", "late/10", "taxi/7"}


def test_a_start_takes_the_newest_of_each_model_first(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=9).fill()
    assert set(shelf.run(lambda: shelf.index(ready=True))) == {"late/10", "taxi/7"}


def test_the_newest_version_answers_unless_another_is_asked(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Answer]:
        return [await shelf.infer("late", version) for version in ("", "1", "2", "10")]

    answers = shelf.run(talk)
    assert [version_of(a) for a in answers] == ["10", "1", "2", "10"]
    for answer in answers:
        bias = BIASES[version_of(answer)]
        assert answer.scores == pytest.approx([expected(FULL, bias)], abs=1e-6)


def test_metadata_names_every_version_that_can_be_asked(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=9).fill()
    answer = shelf.run(lambda: shelf.ask("/v2/models/late", method="GET"))
    assert answer.body["versions"] == ["1", "2", "10"]


@pytest.mark.parametrize("way", ["GET", "HEAD", "gRPC"])
def test_reading_metadata_neither_loads_nor_evicts(shelf: Shelf, way: str) -> None:
    models = shelf.open(model_memory_mb=9)
    models.fill()
    service = Service(models, shelf.app.orders, lambda: True)
    calls = {method.name: method for method in service.methods}
    call = calls["ModelMetadata"]

    async def describe(name: str, version: str) -> tuple[int, str]:
        """Return status and the refusal, as far as the way of asking tells it."""
        if way != "gRPC":
            answer = await shelf.ask(f"/v2/models/{name}/versions/{version}", method=way)
            body = answer.body if answer.content else {}
            return answer.status, body.get("error", "")
        try:
            await call.answer(call.request(name=name, version=version), Trail("gRPC", "/"))
        except Rejected as refusal:
            return refusal.status, refusal.message
        return 200, ""

    async def talk() -> list[Any]:
        told = [await describe(*x) for x in (("late", "10"), ("late", "1"), ("late", "3"))]
        before = await shelf.index(ready=True)
        await shelf.order("unload", "late", "10")
        told.append(await describe("late", "10"))
        return [before, *told]

    before, here, elsewhere, unknown, unloaded = shelf.run(talk)
    assert set(before) == {"late/10", "taxi/7"}
    assert shelf.loads == {("late", "10"): 1, ("taxi", "7"): 1}
    assert [x[0] for x in (here, elsewhere, unknown, unloaded)] == [200, 503, 404, 503]
    if way != "HEAD":
        assert elsewhere[1] == "version '1' of 'late' is not loaded; a request to infer loads it"
        assert "it was unloaded" in unloaded[1]


def test_what_is_not_there_is_a_404_that_names_what_is(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Answer]:
        return [
            await shelf.infer("nothing"),
            await shelf.infer("late", "3"),
            await shelf.infer("late", ".."),
            await shelf.order("load", "nothing"),
            await shelf.order("unload", "late", "3"),
        ]

    answers = shelf.run(talk)
    assert [code_of(a) for a in answers] == [
        (404, "unknown_model"),
        (404, "unknown_version"),
        (404, "unknown_version"),
        (404, "unknown_model"),
        (404, "unknown_version"),
    ]
    assert "'late', 'taxi'" in answers[0].body["error"]
    assert "'1', '10', '2'" in answers[1].body["error"]


def test_a_probe_without_a_key_learns_no_names(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Answer]:
        paths = ("nosuch/ready", "nosuch/versions/1/ready", "late/versions/99/ready")
        return [await shelf.ask(f"/v2/models/{path}", method="GET") for path in paths]

    assert [(code_of(a), a.body["error"]) for a in shelf.run(talk)] == [
        ((404, "unknown_model"), "there is no model 'nosuch'"),
        # A model that is there cannot be told from one that is not.
        ((404, "unknown_model"), "there is no version '1' of a model 'nosuch'"),
        ((404, "unknown_model"), "there is no version '99' of a model 'late'"),
    ]


def test_any_number_of_requests_lists_the_folder_once_until_an_order(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[str] = []
    glob = Path.glob

    def counted(path: Path, pattern: str) -> Any:
        walks.append(pattern)
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", counted)
    monkeypatch.setattr(repository, "LISTING_SECONDS", 3600.0)
    models = shelf.open(model_memory_mb=9)
    models.fill()
    health = Health(shelf.app.orders, lambda: True)

    async def talk() -> Any:
        for _ in range(9):
            await shelf.infer("nosuch")
            await shelf.ask("/predict", {"records": [FULL]})
            await shelf.index()
            await health._status("nosuch")
        before = len(walks)
        shelf.put("late", "11")
        unseen = await shelf.infer("late", "11")
        await shelf.order("load", "late")
        return before, code_of(unseen), version_of(await shelf.infer("late")), len(walks)

    before, unseen, newest, after = shelf.run(talk)
    assert (before, unseen) == (1, (404, "unknown_version"))
    assert (newest, after) == ("11", 2)


def test_a_model_that_cannot_be_asked_does_not_make_the_only_one_ambiguous(shelf: Shelf) -> None:
    shelf.spoil("wreck", "1")
    shelf.open(model_memory_mb=33).fill()

    async def talk() -> list[Answer]:
        asked = [await shelf.ask("/predict", {"records": [FULL]})]
        for name in ("taxi", "late"):
            await shelf.order("unload", name)
            asked.append(await shelf.ask("/predict", {"records": [FULL]}))
        return asked

    two, one, none = shelf.run(talk)
    assert code_of(two) == (400, "ambiguous_model")
    assert "wreck" not in two.body["error"]
    assert (one.status, one.body["model"]) == (200, "late")
    assert code_of(none) == (400, "ambiguous_model")


def test_the_least_recently_used_makes_room(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=9).fill()

    async def talk() -> list[Any]:
        await shelf.infer("late")
        before = await shelf.index(ready=True)
        await shelf.infer("late", "1")  # taxi/7 was used last of all
        return [before, await shelf.index(ready=True), await shelf.infer("taxi")]

    before, after, again = shelf.run(talk)
    assert set(before) == {"late/10", "taxi/7"}
    assert set(after) == {"late/1", "late/10"}
    assert version_of(again) == "7"
    assert shelf.logged()["version"].sort().to_list() == ["1", "10", "7"]


def test_concurrent_first_requests_load_once(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=9).fill()
    shelf.loads.clear()
    shelf.gate.clear()

    async def talk() -> list[Any]:
        asked = [asyncio.create_task(shelf.infer("late", "2")) for _ in range(20)]
        while not shelf.loads:
            await asyncio.sleep(0.001)
        state = (await shelf.index())["late/2"][0]
        probe = await shelf.ask("/v2/models/late/versions/2/ready", method="GET")
        shelf.gate.set()
        return [state, probe.status, await asyncio.gather(*asked)]

    state, probe, answers = shelf.run(talk)
    assert (state, probe) == ("LOADING", 503)
    assert [version_of(a) for a in answers] == ["2"] * 20
    assert shelf.loads == {("late", "2"): 1}


def test_versions_that_push_each_other_out_lose_no_answer_and_no_row(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=5).fill()

    async def talk() -> list[Answer]:
        wanted = [("late", "1"), ("late", "2"), ("taxi", "7"), ("late", "10")] * 6
        asked = (shelf.infer(n, v, id=str(i)) for i, (n, v) in enumerate(wanted))
        return list(await asyncio.gather(*asked))

    answers = shelf.run(talk)
    assert [version_of(a) for a in answers] == ["1", "2", "7", "10"] * 6
    log = shelf.logged()
    assert sorted(log["request_id"], key=int) == [str(i) for i in range(24)]
    assert (
        log.sort(pl.col("request_id").cast(int))["version"].to_list() == ["1", "2", "7", "10"] * 6
    )


def test_a_bad_bundle_is_left_out_and_the_others_serve(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.spoil("late", "11")
    shelf.open(fallback=[]).fill()
    shelf.loads.clear()

    async def talk() -> list[Any]:
        newest = await shelf.infer("late")
        refused = [await shelf.infer("late", "11") for _ in range(3)]
        ordered = await shelf.order("load", "late", "11")
        tries = dict(shelf.loads)
        index = await shelf.index()
        shelf.put("late", "11", 0.5)
        monkeypatch.setattr(repository, "RETRY_SECONDS", 0.0)
        return [newest, refused, ordered, tries, index, await shelf.infer("late", "11")]

    newest, refused, ordered, tries, index, mended = shelf.run(talk)
    assert version_of(newest) == "10"
    assert {code_of(a) for a in [*refused, ordered]} == {(503, "not_loaded")}
    assert "onnx" not in ordered.content.decode()
    assert tries == {("late", "11"): 1}  # by the order alone
    assert index["late/11"] == ("UNAVAILABLE", "it was refused; the server's log says why")
    assert version_of(mended) == "11"


def test_a_load_that_fails_inside_is_refused_and_not_tried_at_every_request(shelf: Shelf) -> None:
    shelf.put("late", "11")
    models = shelf.open(model_memory_mb=5)
    load = models._load

    def fail(bundle: Path, version: str, name: str) -> Served:
        served = load(bundle, version, name)
        if version in ("2", "11"):
            raise ZeroDivisionError("/secret/path")
        return served

    models._load = fail
    models.fill()

    async def talk() -> list[Answer]:
        return [await shelf.infer("late", "2") for _ in range(3)]

    answers = shelf.run(talk)
    assert {code_of(a) for a in answers} == {(503, "not_loaded")}
    assert "secret" not in answers[0].content.decode()
    assert shelf.loads == {("late", "11"): 1, ("taxi", "7"): 1, ("late", "2"): 1}


def test_without_a_version_the_newest_that_can_be_loaded_answers(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=5)
    shelf.spoil("late", "11")
    assert version_of(shelf.run(lambda: shelf.infer("late"))) == "10"


def test_a_folder_without_one_good_bundle_does_not_serve(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "models")
    with pytest.raises(NotFound, match="holds no bundle"):
        shelf.open().fill()
    shelf.spoil("late", "1")
    with pytest.raises(IntegrityError, match="late/1"):
        shelf.open().fill()


def test_a_version_is_replaced_under_load_without_a_failed_request(shelf: Shelf) -> None:
    shelf.open().fill()
    before, after = expected(FULL, BIASES["10"]), expected(FULL, -2.0)
    answers: list[Answer] = []
    sent = iter(range(10_000))

    async def client(done: asyncio.Event) -> None:
        while not done.is_set():
            answers.append(await shelf.infer("late", id=str(next(sent))))
            await asyncio.sleep(0)

    async def talk() -> None:
        done = asyncio.Event()
        clients = [asyncio.create_task(client(done)) for _ in range(8)]
        while len(answers) < 50:
            await asyncio.sleep(0)
        shelf.put("late", "10", -2.0)
        assert (await shelf.order("load", "late", "10")).status == 200
        enough = len(answers) + 50
        while len(answers) < enough:
            await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*clients)

    shelf.run(talk)
    assert {a.status for a in answers} == {200}
    scores = [a.scores[0] for a in answers]
    swapped = next(i for i, score in enumerate(scores) if abs(score - after) < 1e-6)
    assert scores[:swapped] == pytest.approx([before] * swapped, abs=1e-6)
    assert scores[swapped:] == pytest.approx([after] * (len(scores) - swapped), abs=1e-6)
    log = shelf.logged()
    assert sorted(log["request_id"]) == sorted(a.body["id"] for a in answers)
    assert log["revision"].n_unique() == 2


def test_one_bundle_has_no_repository(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "models")
    models = shelf.open()
    models._folder = None
    models.add(write_bundle(tmp_path / "b"), "7")

    async def talk() -> list[Any]:
        orders = [await shelf.order(what, "flight-delay") for what in ("load", "unload")]
        return [orders, await shelf.infer("flight-delay"), await shelf.index()]

    orders, answer, index = shelf.run(talk)
    assert {code_of(a) for a in orders} == {(400, "unsupported")}
    assert version_of(answer) == "7"
    assert index == {"flight-delay/7": ("READY", "")}


def test_each_version_has_counters_of_its_own(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> str:
        for version in ("1", "1", "2"):
            await shelf.infer("late", version)
        return (await shelf.ask("/metrics", method="GET")).content.decode()

    lines = [x for x in shelf.run(talk).splitlines() if x.startswith("tidemill_rows_total{")]
    counts = {line.split('version="')[1].split('"')[0]: line.split()[-1] for line in lines}
    assert counts == {"1": "2.0", "2": "1.0", "10": "0.0", "7": "0.0"}
