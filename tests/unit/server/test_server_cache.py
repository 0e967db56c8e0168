"""Scores kept by what the model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.server_app import FULL, ROW, Running, expected, start

from tidemill.server.model import Model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of a model."""
    rows: list[int] = []
    predict = Model.predict

    def counted(self: Model, numbers: Any, texts: Any) -> Any:
        rows.append(numbers.shape[1])
        return predict(self, numbers, texts)

    monkeypatch.setattr(Model, "predict", counted)
    return rows


def begin(bundle: Path, calls: list[int], entries: int) -> Running:
    served = start(bundle, cache_entries=entries)
    calls.clear()  # of the row of defaults
    return served


def test_an_equal_row_is_scored_once_and_answered_logged_and_counted_each_time(
    bundle: Path, calls: list[int]
) -> None:
    served = begin(bundle, calls, 10)
    answers = [served.infer(FULL | {"flight_id": name}) for name in "abc"]
    assert calls == [1]
    for answer in answers:
        assert answer.scores == pytest.approx([expected(FULL)], abs=1e-6)
    assert served.metric("tidemill_cache_hits_total") == 2
    assert served.metric("tidemill_rows_total") == 3
    assert served.log.close(10) == 0
    assert served.log.counts() == (3, 0)


@pytest.mark.parametrize(
    "other", [{"temp": 41.0}, {"temp": None}, {"carrier": "AA"}, {"carrier": "JFK", "origin": "UA"}]
)
def test_another_row_is_another_score(
    bundle: Path, calls: list[int], other: dict[str, Any]
) -> None:
    served = begin(bundle, calls, 10)
    served.infer(FULL)
    assert served.infer(FULL | other).scores == pytest.approx([expected(FULL | other)], abs=1e-6)
    assert served.metric("tidemill_cache_hits_total") == 0


def test_a_feature_that_changed_in_the_store_is_another_row(bundle: Path, calls: list[int]) -> None:
    served = begin(bundle, calls, 10)
    row = ROW | {"tailnum": "N1"}
    before = served.infer(row).scores
    served.online.values["plane"][("N1",)]["seats"] = 300
    assert served.infer(row).scores == pytest.approx([expected(FULL | {"seats": 300.0})], abs=1e-6)
    served.online.values["plane"][("N1",)]["seats"] = 200
    assert served.infer(row).scores == before
    assert served.metric("tidemill_cache_hits_total") == 1


def test_the_least_recently_used_row_makes_room(bundle: Path, calls: list[int]) -> None:
    served = begin(bundle, calls, 2)
    for temperature in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        served.infer(FULL | {"temp": temperature})
    assert len(calls) == 4
    assert served.metric("tidemill_cache_hits_total") == 2


def test_requests_of_several_rows_are_not_kept(bundle: Path, calls: list[int]) -> None:
    served = begin(bundle, calls, 10)
    served.infer(FULL, 2)
    served.infer(FULL, 2)
    assert calls == [2, 2]


def test_it_is_off_by_default(bundle: Path, calls: list[int]) -> None:
    served = start(bundle)
    calls.clear()
    served.infer(FULL)
    served.infer(FULL)
    assert calls == [1, 1]
