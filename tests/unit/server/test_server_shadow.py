"""Mirrored requests: answered as a client's would be, without anything that a client's leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server_app import FULL, INFER, Answer, Running, expected, request, start, to_answer

from tidemill.server import Authentication, Keyring, Model, build_shadow_app
from tidemill.server import answers as table
from tidemill.server.answers import KEPT, PAGE, ROWS, Answers, Identity, identify
from tidemill.server.keys import make_entry
from tidemill.settings.serving import LimitSettings, ServingSettings
from tidemill.testing.serving import ask

CLIENTS, SHADOWS = (
    f"/v2/models/flight-delay/versions/7/answers/{s}" for s in ("clients", "shadows")
)


class Mirrored:
    """A server, its port for clients and its port for shadows."""

    def __init__(self, bundle: Path, keys: Any = None, **options: Any) -> None:
        self.running: Running = start(bundle, keys, **options)
        self.app = build_shadow_app(self.running.app, ServingSettings(**options))

    def shadow(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> Answer:
        raw = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
        return to_answer(asyncio.run(ask(self.app, method, path, body, raw)))

    def answers(self, side: str, after: int = 0, **headers: str) -> Any:
        found = self.shadow(f"{side}/{after}", method="GET", **headers)
        assert found.status == 200, found.content
        return found.body


@pytest.fixture
def mirrored(bundle: Path) -> Mirrored:
    return Mirrored(bundle)


BODY = json.dumps(request(FULL) | {"id": "r1"}).encode()


def test_a_shadow_is_answered_as_a_client_would_be(mirrored: Mirrored) -> None:
    as_shadow = mirrored.shadow(INFER, BODY)
    assert as_shadow.status == 200
    assert as_shadow.content == mirrored.running.ask(INFER, BODY).content
    assert as_shadow.scores == pytest.approx([expected(FULL)], rel=1e-5)


def test_a_shadow_leaves_no_trace(mirrored: Mirrored, tmp_path: Path) -> None:
    running = mirrored.running
    before = {name: running.metric(name) for name in ("tidemill_rows_total", "tidemill_slow_total")}
    for _ in range(3):
        mirrored.shadow(INFER, BODY)
        mirrored.shadow(INFER, b"{")
    assert running.metric("tidemill_requests_total", outcome="ok") == 0
    assert running.metric("tidemill_requests_total", outcome="rejected") == 0
    assert running.metric("tidemill_shadow_requests_total", outcome="ok") == 3
    assert running.metric("tidemill_shadow_requests_total", outcome="rejected") == 3
    assert {name: running.metric(name) for name in before} == before
    assert running.log.close(5) == 0
    assert running.objects.list("predictions/") == []


def test_a_failure_is_no_fallbacks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored = Mirrored(bundle, fallback=["prior"])

    def fail(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Model, "predict", fail)
    assert mirrored.running.infer(FULL).status == 200
    assert mirrored.shadow(INFER, BODY).status == 500
    (told,) = mirrored.answers(SHADOWS)["answers"]
    assert told[4] == "error"


def test_a_client_cannot_pass_its_request_off_as_a_shadow(mirrored: Mirrored) -> None:
    running = mirrored.running
    assert running.ask(INFER, BODY, host="models-shadow", x_envoy_internal="true").status == 200
    assert running.metric("tidemill_requests_total", outcome="ok") == 1
    assert running.metric("tidemill_rows_total") == 1
    assert running.ask(f"{CLIENTS}/0", method="GET").status == 404


@pytest.mark.parametrize("path", ["/metrics", "/v2/repository/index", "/v2", "/openapi.json"])
def test_the_port_for_shadows_does_nothing_else(mirrored: Mirrored, path: str) -> None:
    assert mirrored.shadow(path, method="GET").status == 404


@pytest.mark.parametrize(
    "path", [f"{CLIENTS}/x", f"{CLIENTS}/-1", CLIENTS.replace("clients", "o/1")]
)
def test_what_is_asked_wrongly_is_not_found(mirrored: Mirrored, path: str) -> None:
    assert mirrored.shadow(path, method="GET").status == 404


def test_both_arms_know_a_request_by_the_same_digests(mirrored: Mirrored) -> None:
    mirrored.answers(CLIENTS)
    mirrored.running.ask(INFER, BODY, x_request_id="one")
    mirrored.shadow(INFER, BODY, x_request_id="one", host="gateway-shadow")
    (client,), (shadow,) = (mirrored.answers(s)["answers"] for s in (CLIENTS, SHADOWS))
    assert client[2:4] == shadow[2:4]
    assert client[4:] == shadow[4:]
    assert client[6] == pytest.approx([expected(FULL)], rel=1e-5)


def test_digests_tell_ids_and_content_apart() -> None:
    one = identify({b"x-request-id": b"one"}, b"{}")
    assert identify({b"x-request-id": b"two"}, b"{}").content == one.content
    assert identify({b"x-request-id": b"one"}, b"{ }").id == one.id
    assert identify({}, b"{}") == Identity("", one.content)
    assert len({one.id, one.content, identify({}, b"{ }").content}) == 3


def test_clients_are_noted_only_while_somebody_reads(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(table, "monotonic", lambda: now)
    mirrored.running.infer(FULL)
    assert mirrored.answers(CLIENTS)["count"] == 0
    mirrored.running.infer(FULL)
    now += table.OPEN_SECONDS - 1
    mirrored.running.infer(FULL)
    now += 2
    mirrored.running.infer(FULL)
    page = mirrored.answers(CLIENTS)
    assert page["count"] == 2
    assert [round(told[1]) for told in page["answers"]] == [121, 2]


def test_refused_and_failed_answers_are_noted_too(mirrored: Mirrored) -> None:
    mirrored.answers(CLIENTS)
    mirrored.running.ask(INFER, b"{")
    mirrored.running.ask("/predict", json.dumps({"records": [FULL]}).encode())
    told = mirrored.answers(CLIENTS)["answers"]
    assert [entry[4] for entry in told] == ["rejected", "ok"]
    assert [len(entry[6]) for entry in told] == [0, 1]


def test_a_score_that_is_no_number_is_null() -> None:
    answers = Answers("rev", 0.25)
    answers.note(Identity("", "c"), "ok", 0.3, [float("nan"), 0.5])
    assert json.loads(to_json(answers))["answers"][0][5:] == [True, [None, 0.5]]


def to_json(answers: Answers) -> bytes:
    from tidemill.server.protocol import encode

    return encode(answers.page(0))


def test_memory_is_bounded_and_the_numbers_go_on() -> None:
    answers = Answers("rev", 0.25)
    for number in range(KEPT + 10):
        answers.note(Identity("", str(number)), "ok", 0.001, [0.5] * 1000)
    page = answers.page(0)
    assert (page.count, len(page.answers)) == (KEPT + 10, PAGE)
    assert page.answers[0].number == 11
    assert page.answers[0].content == "10"
    assert len(page.answers[0].scores) == ROWS
    assert [told.number for told in answers.page(KEPT + 8).answers] == [KEPT + 9, KEPT + 10]
    assert answers.page(KEPT + 10).answers == answers.page(10**9).answers == []


@contextmanager
def keyring(folder: Path, **options: Any) -> Iterator[tuple[Authentication, str]]:
    token, entry = make_entry("client", **options)
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump([entry]))
    now = datetime(2013, 4, 1, tzinfo=UTC)
    yield Authentication(Keyring(path, folder / "quota.db", now=lambda: now)), f"Bearer {token}"


def test_a_shadow_is_asked_for_its_key_and_not_billed(bundle: Path, tmp_path: Path) -> None:
    with keyring(tmp_path, permissions=["infer"], quota=2, rate=1, burst=2) as (keys, bearer):
        mirrored = Mirrored(bundle, keys)
        assert mirrored.shadow(INFER, BODY).status == 401
        for _ in range(5):
            assert mirrored.shadow(INFER, BODY, authorization=bearer).status == 200
        for status in (200, 200, 429):
            assert mirrored.running.ask(INFER, BODY, authorization=bearer).status == status
        assert mirrored.shadow(f"{SHADOWS}/0", method="GET", authorization=bearer).status == 403


def test_answers_are_told_to_an_admin(bundle: Path, tmp_path: Path) -> None:
    with keyring(tmp_path, permissions=["infer", "admin"]) as (keys, bearer):
        mirrored = Mirrored(bundle, keys)
        mirrored.shadow(INFER, BODY, authorization=bearer)
        assert mirrored.answers(SHADOWS, authorization=bearer)["count"] == 1


def test_under_overload_shadows_are_refused_and_clients_are_not_touched(bundle: Path) -> None:
    limits = LimitSettings(max_in_flight=1, max_waiting=1)
    mirrored = Mirrored(bundle, limits=limits)
    raw = asyncio.run(ask(mirrored.app, "POST", INFER, BODY, {}, pending=2))
    assert raw.status == 503
    running = mirrored.running
    assert running.metric("tidemill_shadow_requests_total", outcome="overloaded") == 1
    assert running.metric("tidemill_requests_total", outcome="overloaded") == 0
    assert running.infer(FULL).status == 200
