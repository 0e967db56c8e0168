"""What the server counts of requests, scores and failures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.server_app import FULL, INFER, Running, start
from tests.server_shelf import Broken

from tidemill.domain.scores import BOUNDS
from tidemill.testing.models import write_bundle


def test_metrics_carry_the_contract(served: Running) -> None:
    served.infer(FULL, 3)
    served.ask(INFER, b"{}")
    labels = {"model": "flight-delay", "version": "7"}
    assert served.metric("tidemill_requests_total", outcome="ok", **labels) == 1
    assert served.metric("tidemill_requests_total", outcome="rejected", **labels) == 1
    assert served.metric("tidemill_rows_total", **labels) == 3
    assert served.metric("tidemill_request_seconds_count", **labels) == 2
    assert served.metric("tidemill_request_seconds_bucket", le="0.25", **labels) <= 2
    for name in ("slow", "invalid", "log_rows", "log_lost"):
        assert served.metric(f"tidemill_{name}_total", **labels) >= 0
    assert served.metric("tidemill_start_time_seconds", **labels) > 1.7e9


def test_a_slow_request_is_counted_beside_its_bucket(bundle: Path) -> None:
    served = start(bundle, slow_ms=0.001)
    served.infer(FULL)
    assert served.metric("tidemill_slow_total") == 1
    assert served.metric("tidemill_request_seconds_bucket", le="1e-06") == 0


def test_a_score_that_is_no_probability_is_counted(tmp_path: Path) -> None:
    served = start(write_bundle(tmp_path / "b", bias=math.nan))
    answer = served.infer(FULL)
    assert answer.status == 200
    assert answer.scores == [None]
    assert served.metric("tidemill_invalid_total") == 1
    assert served.metric("tidemill_score_count") == 0


def test_a_request_is_counted_once_under_its_mean_score(served: Running) -> None:
    scores = [served.infer(FULL, 3).scores, served.infer(FULL).scores]
    means = [sum(one) / len(one) for one in scores]
    assert served.metric("tidemill_score_count") == 2
    assert served.metric("tidemill_score_sum") == pytest.approx(sum(means))
    bound = min(bound for bound in BOUNDS if bound >= max(means))
    assert served.metric("tidemill_score_bucket", le=str(bound)) == 2


def test_a_failing_model_is_a_500_without_its_reason(bundle: Path) -> None:
    served = start(bundle, fallback=[])
    object.__setattr__(served.served.inference.model, "session", Broken())
    answer = served.infer(FULL)
    assert (answer.status, answer.body["code"]) == (500, "internal")
    assert "secret" not in answer.content.decode()
    assert served.metric("tidemill_requests_total", outcome="error") == 1
