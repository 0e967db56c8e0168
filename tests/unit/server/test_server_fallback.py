"""A model that fails: what answers instead, how that is marked, counted and logged."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.server_app import AS_OF, FULL, ROW, Answer, expected, request, start
from tests.server_shelf import Broken, Shelf, code_of, version_of

from tidemill.adapters.counters import parse
from tidemill.bundle import Manifest
from tidemill.errors import Unavailable
from tidemill.server import rest
from tidemill.server.trail import Trail
from tidemill.testing.models import MANIFEST
from tidemill.testing.online import MemoryOnline

DOWN = MemoryOnline(MANIFEST.features.digest, AS_OF, {}, failure=Unavailable("it is down"))
BIASES = {"5": 0.5, "6": 0.0, "7": -1.0}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path / "models")
    for version, bias in BIASES.items():
        made.put("late", version, bias)
    made.put("taxi", "6", 3.0)
    return made


def test_the_next_older_version_answers_marked_counted_and_logged_as_itself(shelf: Shelf) -> None:
    shelf.open().fill()
    shelf.break_("late", "7")

    async def talk() -> list[Any]:
        answer = await shelf.infer("late", id="x")
        labels = {"model": "late", "version": "7"}
        return [
            answer,
            await shelf.metric("tidemill_fallback_total", to="previous", **labels),
            await shelf.metric("tidemill_requests_total", outcome="error", **labels),
            await shelf.metric("tidemill_requests_total", outcome="ok", **labels),
            await shelf.metric("tidemill_score_count", **labels),
            await shelf.metric("tidemill_requests_total", outcome="ok", version="6", model="late"),
        ]

    answer, *counts = shelf.run(talk)
    assert version_of(answer) == "6"
    assert answer.scores == pytest.approx([expected(FULL, BIASES["6"])], abs=1e-6)
    assert answer.body["parameters"]["fallback"] == "version 6"
    assert answer.body["id"] == "x"
    assert counts == [1, 1, 0, 0, 1]
    assert shelf.logged().select("request_id", "model", "version").rows() == [("x", "late", "6")]


def test_versions_that_fail_too_are_passed_over(shelf: Shelf) -> None:
    shelf.open().fill()
    shelf.break_("late", "7")
    shelf.break_("late", "6")
    answer = shelf.run(lambda: shelf.infer("late"))
    assert (version_of(answer), answer.body["parameters"]["fallback"]) == ("5", "version 5")


def test_a_model_that_fails_is_told_once_and_each_failure_counted(shelf: Shelf) -> None:
    shelf.open().fill()
    shelf.break_("late", "7")

    async def talk() -> int:
        for _ in range(3):
            await shelf.infer("late")
        return await shelf.metric("tidemill_requests_total", outcome="error", version="7")

    with capture_logs() as lines:
        assert shelf.run(talk) == 3
    (told,) = [line for line in lines if line["event"] == "the model failed"]
    assert (told["model"], told["version"]) == ("late", "7")


def test_a_newer_version_is_no_fallback(shelf: Shelf) -> None:
    shelf.open(fallback=["previous"]).fill()
    shelf.break_("late", "5")
    assert code_of(shelf.run(lambda: shelf.infer("late", "5"))) == (500, "internal")


def test_the_prior_answers_last_and_is_in_no_log(shelf: Shelf) -> None:
    shelf.open().fill()
    for version in BIASES:
        shelf.break_("late", version)

    async def talk() -> list[Any]:
        answer = await shelf.infer("late", id="x")
        return [
            answer,
            await shelf.metric("tidemill_fallback_total", to="prior", version="7"),
            await shelf.metric("tidemill_fallback_total", to="previous"),
            await shelf.metric("tidemill_requests_total", outcome="ok"),
            await shelf.metric("tidemill_rows_total"),
        ]

    answer, *counts = shelf.run(talk)
    assert version_of(answer) == "7"
    assert answer.scores == pytest.approx([MANIFEST.prior])
    assert answer.body["parameters"]["fallback"] == "prior"
    assert counts == [1, 0, 0, 0]
    assert not shelf.objects.kept


@pytest.mark.parametrize(
    ("chain", "outcome"),
    [
        ((), 500),
        (("prior",), "prior"),
        (("prior", "previous"), "prior"),
        (("previous",), "version 6"),
    ],
    ids=str,
)
def test_the_settings_choose_the_chain(shelf: Shelf, chain: tuple[str, ...], outcome: Any) -> None:
    shelf.open(fallback=chain).fill()
    shelf.break_("late", "7")
    answer: Answer = shelf.run(lambda: shelf.infer("late"))
    if outcome == 500:
        assert code_of(answer) == (500, "internal")
        assert "secret" not in answer.content.decode()
    else:
        assert answer.body["parameters"]["fallback"] == outcome


def test_what_is_refused_is_no_failure(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Any]:
        refused = await shelf.infer("late", row={"carrier": "UA"})
        return [refused, await shelf.metric("tidemill_fallback_total")]

    refused, fallbacks = shelf.run(talk)
    assert (code_of(refused), fallbacks) == ((400, "missing_input"), 0)


def test_an_older_version_that_takes_other_inputs_is_passed_over(shelf: Shelf) -> None:
    inputs = (*MANIFEST.inputs, replace(MANIFEST.inputs[0], name="fresh"))
    shelf.put("late", "8", manifest=replace(MANIFEST, inputs=inputs))
    shelf.open().fill()
    shelf.break_("late", "8")
    answer = shelf.run(lambda: shelf.infer("late", row=FULL | {"fresh": 1.0}))
    assert answer.body["parameters"]["fallback"] == "prior"


def test_each_version_looks_up_the_features_that_it_was_trained_with(shelf: Shelf) -> None:
    """Version 8 takes `temp` from a view of its own, by another key."""
    service = MANIFEST.features
    views = tuple(
        replace(v, name="plane_weather", join_keys=("tailnum",))
        if v.name == "origin_weather"
        else v
        for v in service.views
    )
    newer = replace(MANIFEST, features=replace(service, name="small_v2", views=views))
    shelf.put("late", "8", -2.0, manifest=newer)
    online = MemoryOnline(
        service.digest,
        AS_OF,
        {
            "carrier_delay": {("UA",): {"carrier_late_rate_7d": 0.5}},
            "origin_weather": {("JFK",): {"temp": 40.0}},
            "plane_weather": {("N1",): {"temp": 70.0}},
            "plane": {("N1",): {"seats": 200}},
        },
    )
    shelf.open(online).fill()
    row = ROW | {"tailnum": "N1"}

    async def talk() -> list[Answer]:
        newest = await shelf.infer("late", row=row)
        shelf.break_("late", "8")
        fallen = await shelf.infer("late", row=row)
        await shelf.order("unload", "late", "8")
        return [newest, fallen, await shelf.infer("late", row=row)]

    newest, fallen, rolled_back = shelf.run(talk)
    assert newest.scores == pytest.approx([expected(FULL | {"temp": 70.0}, -2.0)], abs=1e-6)
    assert fallen.scores == pytest.approx([expected(FULL, -1.0)], abs=1e-6)
    assert (version_of(rolled_back), rolled_back.scores) == ("7", fallen.scores)
    assert "fallback" not in rolled_back.body["parameters"]


def _with_defaults(manifest: Manifest) -> Manifest:
    """The manifest with a default for every feature."""
    columns = tuple(
        replace(c, default=0.25) if c.origin == "feature" and c.default is None else c
        for c in manifest.inputs
    )
    return replace(manifest, inputs=columns)


def test_without_the_store_a_version_answers_that_can_do_without(shelf: Shelf) -> None:
    shelf.put("late", "6", 0.0, manifest=_with_defaults(MANIFEST))
    shelf.open(DOWN, nan_policy="reject").fill()

    async def talk() -> list[Any]:
        answer = await shelf.infer("late", row=ROW | {"tailnum": "N1"})
        return [
            answer,
            await shelf.metric("tidemill_fallback_total", to="previous", version="7"),
            await shelf.metric("tidemill_requests_total", outcome="error", version="7"),
            (await shelf.infer("late")).body["model_version"],
        ]

    answer, *counts, given = shelf.run(talk)
    filled = ROW | {"carrier_late_rate_7d": 0.25, "temp": 0.25, "seats": 150.0}
    assert answer.scores == pytest.approx([expected(filled, 0.0)], abs=1e-6)
    marks = answer.body["parameters"]
    assert (marks["fallback"], marks["defaulted"]) == (
        "version 6",
        "carrier_late_rate_7d=1,temp=1,seats=1",
    )
    assert counts == [1, 1]
    assert given == "7"  # a request that brings its features needs no store


@pytest.mark.parametrize(
    ("options", "mark"),
    [
        ({"nan_policy": "reject"}, "prior"),
        ({"nan_policy": "reject", "fallback": []}, None),
        ({}, ""),
    ],
    ids=["none can do without", "no chain", "missing is allowed"],
)
def test_without_the_store_the_policy_says_what_a_missing_feature_is(
    shelf: Shelf, options: dict[str, Any], mark: str | None
) -> None:
    shelf.open(DOWN, **options).fill()
    answer = shelf.run(lambda: shelf.infer("late", row=ROW | {"tailnum": "N1"}))
    if mark is None:
        assert code_of(answer) == (500, "internal")
    else:
        assert answer.body["parameters"].get("fallback", "") == mark


def _online(**values: Any) -> MemoryOnline:
    """A store that knows the keys of `ROW`, in each view but those of `values`."""
    held = {
        "carrier_delay": {("UA",): {"carrier_late_rate_7d": 0.5}},
        "origin_weather": {("JFK",): {"temp": 40.0}},
        "plane": {("N1",): {"seats": 200}},
    }
    return MemoryOnline(MANIFEST.features.digest, AS_OF, held | values)


@pytest.mark.parametrize("held", [{}, {("JFK",): {"temp": None}}], ids=["no row", "null"])
def test_a_key_that_the_store_has_nothing_for_is_the_callers(shelf: Shelf, held: Any) -> None:
    shelf.open(_online(origin_weather=held), nan_policy="reject").fill()
    row = ROW | {"tailnum": "N1"}

    async def talk() -> list[Any]:
        return [
            await shelf.infer("late", row=row),
            await shelf.metric("tidemill_requests_total", outcome="rejected", version="7"),
            await shelf.metric("tidemill_requests_total", outcome="error"),
            await shelf.metric("tidemill_fallback_total"),
            await shelf.metric("tidemill_defaults_total"),
        ]

    answer, *counts = shelf.run(talk)
    assert code_of(answer) == (400, "unknown_entity")
    for name in ("origin_weather", "origin", "temp", "row 0"):
        assert name in answer.body["error"]
    assert counts == [1, 0, 0, 0]


def _expire(online: MemoryOnline) -> None:
    online.expired.add(("origin_weather", ("JFK",)))


def _empty(online: MemoryOnline) -> None:
    online.as_of = None
    online.values.clear()


def _spoil(online: MemoryOnline) -> None:
    online.values["origin_weather"][("JFK",)]["temp"] = "warm"


def _break(online: MemoryOnline) -> None:
    online.failure = Unavailable("it is down")


@pytest.mark.parametrize("spoil", [_expire, _empty, _spoil, _break], ids=lambda f: f.__name__)
def test_what_the_store_is_to_blame_for_is_a_failure_and_counted(shelf: Shelf, spoil: Any) -> None:
    online = _online()
    spoil(online)
    shelf.open(online, nan_policy="reject").fill()

    async def talk() -> list[Any]:
        answer = await shelf.infer("late", row=ROW | {"tailnum": "N1"})
        view = {"version": "7", "view": "origin_weather"}
        return [
            answer.body["parameters"]["fallback"],
            await shelf.metric("tidemill_requests_total", outcome="error", version="7"),
            await shelf.metric("tidemill_defaults_total", **view),
            await shelf.metric("tidemill_stale_total", **view),
        ]

    assert shelf.run(talk) == ["prior", 1, 1, int(spoil is _expire)]


def test_fallbacks_do_not_make_a_broken_canary_look_healthy(shelf: Shelf) -> None:
    shelf.open().fill()
    shelf.break_("late", "7")

    async def talk() -> list[Any]:
        answers = await asyncio.gather(*(shelf.infer("late") for _ in range(20)))
        revisions = [shelf.models.find("late", v).inference.model.revision for v in ("7", "6")]  # type: ignore[union-attr]
        text = (await shelf.ask("/metrics", method="GET")).content.decode()
        return [answers, [parse(text, revision) for revision in revisions]]

    answers, (canary, older) = shelf.run(talk)
    assert {a.status for a in answers} == {200}
    assert (canary.requests, canary.events["error"]) == (20, 20)
    assert (older.requests, older.events["error"]) == (20, 0)


def test_a_time_that_ends_in_a_fallback_is_no_error_of_the_older_version(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.open(limits={"request_seconds": 0.3}).fill()
    shelf.break_("late", "7")
    older = shelf.models.find("late", "6")
    assert older

    async def wait(*_: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(older.inference, "_predict", wait)
    outcomes = ("error", "cancelled")

    async def talk() -> list[Any]:
        answer = await shelf.infer("late")
        return [
            answer.status,
            *[
                await shelf.metric("tidemill_requests_total", outcome=o, version=v)
                for v in ("7", "6")
                for o in outcomes
            ],
        ]

    assert shelf.run(talk) == [504, 1, 0, 0, 1]


def test_a_single_model_falls_back_on_its_prior(bundle: Path) -> None:
    served = start(bundle)
    object.__setattr__(served.served.inference.model, "session", Broken())
    answer = served.infer(FULL, 3)
    assert answer.scores == pytest.approx([MANIFEST.prior] * 3)
    assert served.metric("tidemill_requests_total", outcome="error") == 1


def test_a_trail_names_the_version_that_the_answer_names(shelf: Shelf) -> None:
    shelf.open().fill()
    for version in BIASES:
        shelf.break_("late", version)
    served = shelf.models.find("late", "7")
    assert served
    trail = Trail()

    async def talk() -> Any:
        body = json.dumps(request(FULL)).encode()
        return await served.inference.answer(lambda: rest.read(body, None), rest.write, trail)

    told = json.loads(shelf.run(talk).body)
    assert told["parameters"]["fallback"] == "prior"
    assert (trail.version, trail.request_id) == (told["model_version"], told["id"])


@pytest.mark.parametrize("version", ["7", "8"], ids=["spoiled", "beside good ones"])
def test_an_older_version_answers_for_one_that_is_named_and_cannot_be_loaded(
    shelf: Shelf, version: str
) -> None:
    shelf.spoil("late", version)
    shelf.open().fill()

    async def talk() -> tuple[Answer, float]:
        answer = await shelf.infer("late", version, id="x")
        return answer, await shelf.metric("tidemill_stood_in_total", model="late")

    answer, counted = shelf.run(talk)
    newest = "6" if version == "7" else "7"
    assert (version_of(answer), counted) == (newest, 1)
    assert answer.body["parameters"]["fallback"] == f"version {newest}"
    assert answer.scores == pytest.approx([expected(FULL, BIASES[newest])], abs=1e-6)
    assert shelf.logged().select("request_id", "version").rows() == [("x", newest)]


@pytest.mark.parametrize("fallback", [[], ["prior"]], ids=["none", "prior"])
def test_without_previous_a_version_that_cannot_be_loaded_is_not_there(
    shelf: Shelf, fallback: list[str]
) -> None:
    shelf.spoil("late", "7")
    shelf.open(fallback=fallback).fill()
    assert code_of(shelf.run(lambda: shelf.infer("late", "7"))) == (503, "not_loaded")


def test_none_answers_for_a_version_that_was_unloaded_by_order(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> Answer:
        await shelf.order("unload", "late", "7")
        return await shelf.infer("late", "7")

    assert code_of(shelf.run(talk)) == (503, "not_loaded")
