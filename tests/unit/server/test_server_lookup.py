"""Features that a request does not give: looked up, or a default that is marked and counted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from tests.server_app import (
    AS_OF,
    FULL,
    INFER,
    NOW,
    PATIENT_MS,
    ROW,
    Running,
    expected,
    request,
    start,
)

from tidemill.bundle import InputColumn
from tidemill.errors import Unavailable
from tidemill.server import lookup, reads
from tidemill.server.metrics import Counters
from tidemill.server.validation import Batch
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import ask

BROKEN = {
    "down": Unavailable("the store does not answer"),
    "a bug of the reader": ZeroDivisionError(),
}


def test_missing_features_are_looked_up(served: Running) -> None:
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.scores == pytest.approx([expected(FULL)], abs=1e-6)
    assert answer.body["parameters"]["features_as_of"] == AS_OF.isoformat()
    assert "defaulted" not in answer.body["parameters"]
    assert served.metric("tidemill_defaults_total", view="plane") == 0


def test_given_features_win_over_the_store(served: Running) -> None:
    row = ROW | {"tailnum": "N1", "temp": 90.0}
    assert served.infer(row).scores == pytest.approx([expected(FULL | {"temp": 90.0})], abs=1e-6)


def test_unknown_and_null_keys_fall_back_marked_and_counted(served: Running) -> None:
    answer = served.infer(ROW | {"tailnum": ["N1", "N2", None, "N1"]}, 4)
    known, unknown = expected(FULL), expected(FULL | {"seats": 150.0})
    assert answer.scores == pytest.approx([known, unknown, unknown, known], abs=1e-6)
    assert answer.body["parameters"]["defaulted"] == "seats=0.5"
    assert served.metric("tidemill_defaults_total", view="plane") == 2
    assert served.metric("tidemill_defaults_total", view="carrier_delay") == 0


def test_a_feature_behind_a_vector_goes_to_its_own_lane() -> None:
    """A vector takes as many lanes as it has numbers; what comes behind it moves."""
    vector = InputColumn("embedding", "FP32", "request", width=3)
    manifest = replace(MANIFEST, inputs=(vector, *MANIFEST.inputs))
    view = next(view for view in MANIFEST.features.views if view.name == "plane")
    online = MemoryOnline(MANIFEST.features.digest, AS_OF, {"plane": {("N1",): {"seats": 200}}})
    numbers = np.zeros((7, 2), np.float32)
    texts, keys = np.empty((2, 2), object), {"tailnum": ["N1", "N2"]}
    batch = Batch(2, numbers, texts, keys, None, (view,), frozenset())
    counters = Counters(
        ("m", "1", "r"), slow_seconds=1, views=("plane",), logged=lambda: (0, 0), held=lambda: 0
    )
    settings = ServingSettings(lookup_deadline_ms=PATIENT_MS)
    found = asyncio.run(lookup.Lookup(manifest, online, settings, counters).fill(batch, NOW))
    assert numbers.tolist() == [*[[0, 0]] * 6, [200, 150]]
    assert found.defaulted["seats"].tolist() == [False, True]
    assert found.by_view == {"plane": 1}


@pytest.mark.parametrize("failure", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_store_costs_defaults_and_no_answer(served: Running, failure: Exception) -> None:
    served.online.failure = failure
    answer = served.infer(ROW | {"tailnum": "N1"})
    nothing = {"carrier_late_rate_7d": None, "temp": None, "seats": 150.0}
    assert answer.status == 200
    assert answer.scores == pytest.approx([expected(ROW | nothing)], abs=1e-6)
    assert answer.body["parameters"]["defaulted"] == "carrier_late_rate_7d=1,temp=1,seats=1"
    assert "features_as_of" not in answer.body["parameters"]
    served.online.failure = None
    assert served.infer(ROW | {"tailnum": "N1"}).scores == pytest.approx([expected(FULL)], abs=1e-6)
    assert served.metric("tidemill_requests_total", outcome="error") == 0


def test_values_of_a_wrong_type_fall_back(served: Running) -> None:
    served.online.values["plane"][("N1",)]["seats"] = "two hundred"
    served.online.values["origin_weather"][("JFK",)]["temp"] = 1e300
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.body["parameters"]["defaulted"] == "temp=1,seats=1"


def test_another_definition_in_the_store_is_not_used(served: Running) -> None:
    before = served.infer(ROW | {"tailnum": "N1"})
    served.online.digest = "sha256:" + "6" * 64  # somebody materialised a changed service
    served.online.as_of = NOW
    after = served.infer(ROW | {"tailnum": "N1"})
    assert "defaulted" not in before.body["parameters"]
    assert after.body["parameters"]["defaulted"].count("=1") == 3


class Hanging(MemoryOnline):
    """A store whose reads do not end before `released` is set."""

    def __init__(self) -> None:
        super().__init__(MANIFEST.features.digest, AS_OF)
        self.released = threading.Event()
        self._numbers = itertools.count(1)
        self.reads = 0

    def read(self, *_: Any) -> Any:
        self.reads = next(self._numbers)
        assert self.released.wait(30)
        return super().read([], {}, NOW)


class Clock:
    """A monotonic clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lookup, "monotonic", made)
    return made


def test_a_late_store_falls_back_within_the_deadline(bundle: Path) -> None:
    hanging = Hanging()
    served = start(bundle, online=hanging, lookup_deadline_ms=5)
    answer = served.infer(ROW | {"tailnum": "N1"})
    hanging.released.set()
    assert answer.status == 200
    assert answer.body["parameters"]["defaulted"].count("=1") == 3


def test_a_store_that_keeps_failing_is_left_alone_and_tried_again(
    bundle: Path, clock: Clock
) -> None:
    short = {"lookup_deadline_ms": 50, "lookup_pause_seconds": 2}
    served = start(bundle, lookup_failures=3, **short)
    served.online.failure = Unavailable("the store does not answer")
    row = ROW | {"tailnum": "N1"}
    with structlog.testing.capture_logs() as lines:
        answers = [served.infer(row) for _ in range(3)]
        assert served.metric("tidemill_store_open") == 1
        served.online.failure = None  # it is back, but not yet tried
        answers += [served.infer(row) for _ in range(4)]
        clock.now += 1.9
        answers.append(served.infer(row))
        clock.now += 0.2
        again = served.infer(row)
    assert {a.status for a in answers} == {200}
    assert {a.body["parameters"]["defaulted"].count("=1") for a in answers} == {3}
    assert "defaulted" not in again.body["parameters"]
    assert served.metric("tidemill_store_open") == 0
    assert served.metric("tidemill_lookup_seconds_count") == 4
    assert served.metric("tidemill_defaults_total", view="plane") == 8
    assert [line["event"].partition(",")[0] for line in lines] == [
        "lookups fail",
        "lookups work again",
    ]
    assert "the store does not answer" in lines[0]["reason"]


def test_few_failures_do_not_open_the_circuit(bundle: Path) -> None:
    served = start(bundle, lookup_failures=3)
    for _ in range(4):
        for failure in (Unavailable("down"), Unavailable("down"), None):
            served.online.failure = failure
            served.infer(ROW | {"tailnum": "N1"})
    assert served.metric("tidemill_store_open") == 0
    assert served.metric("tidemill_lookup_seconds_count") == 12


def test_requests_do_not_queue_behind_reads_that_hang(bundle: Path) -> None:
    hanging = Hanging()
    served = start(bundle, online=hanging, lookup_deadline_ms=5, lookup_failures=1000)
    for _ in range(reads.THREADS + 5):
        assert served.infer(ROW | {"tailnum": "N1"}).status == 200
    pool = served.served.inference._lookup._reads
    assert len(pool._running) == reads.THREADS
    hanging.released.set()
    while pool._running:
        pass
    assert hanging.reads == reads.THREADS, "no request is behind them"
    served.infer(ROW | {"tailnum": "N1"})
    while pool._running:
        pass
    assert hanging.reads == reads.THREADS + 1


def test_values_older_than_the_ttl_are_counted_apart_from_unknown_ones(served: Running) -> None:
    served.online.expired.add(("plane", ("N1",)))
    answer = served.infer(ROW | {"tailnum": ["N1", "N2", "N1", None]}, 4)
    assert answer.body["parameters"]["defaulted"] == "seats=1"
    assert served.metric("tidemill_stale_total", view="plane") == 2
    assert served.metric("tidemill_defaults_total", view="plane") == 4
    assert served.metric("tidemill_stale_total", view="origin_weather") == 0


def test_answers_from_an_old_store_are_marked_above_the_limit(bundle: Path) -> None:
    age = (NOW - AS_OF).total_seconds()
    row = ROW | {"tailnum": "N1"}
    within = start(bundle, max_store_age_seconds=age)
    assert "stale" not in within.infer(row).body["parameters"]
    assert within.metric("tidemill_store_aged_total") == 0
    beyond = start(bundle, max_store_age_seconds=age - 1)
    assert beyond.infer(row).body["parameters"]["stale"] == f"{age:g}"
    assert "stale" not in beyond.infer(FULL).body["parameters"]  # read nothing
    assert beyond.metric("tidemill_store_aged_total") == 1
    assert beyond.metric("tidemill_defaults_total", view="plane") == 0


def test_reads_whose_callers_have_gone_are_bounded_too(bundle: Path) -> None:
    hanging = Hanging()
    served = start(bundle, online=hanging, lookup_deadline_ms=60_000, lookup_failures=1)

    async def leave() -> None:
        content = json.dumps(request(ROW | {"tailnum": "N1"})).encode()
        for _ in range(10):
            call = asyncio.create_task(ask(served.app, "POST", INFER, content))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call, 0.05)

    asyncio.run(leave())
    assert hanging.reads == reads.THREADS
    assert served.metric("tidemill_store_open") == 1
    hanging.released.set()
