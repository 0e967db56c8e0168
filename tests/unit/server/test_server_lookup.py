"""Features that a request does not give: looked up, or a default that is marked and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.server_app import AS_OF, FULL, NOW, ROW, Running, expected, start

from tidemill.errors import Unavailable
from tidemill.testing.models import MANIFEST
from tidemill.testing.online import MemoryOnline

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


def test_a_late_store_falls_back_within_the_deadline(bundle: Path) -> None:
    served = start(bundle, lookup_deadline_ms=5)

    class Slow(MemoryOnline):
        def read(self, *_: Any) -> Any:
            import time

            time.sleep(0.3)

    served.served.inference._lookup._reader = Slow(MANIFEST.features.digest)
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.status == 200
    assert answer.body["parameters"]["defaulted"].count("=1") == 3
