"""What the server counts of requests, scores and failures."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.server_app import FULL, INFER, Running, start
from tests.server_shelf import Broken

from tidemill import __version__
from tidemill.domain.scores import BOUNDS
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.workers.lines import standard_error


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


def test_a_connection_above_the_limit_is_counted(served: Running) -> None:
    served.app.turn_away()
    shown = served.ask("/metrics", method="GET").content.decode().splitlines()
    assert "tidemill_connections_refused_total 1.0" in shown


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


def test_a_request_refused_as_overload_is_counted_for_the_model_of_its_path(
    bundle: Path,
) -> None:
    served = start(bundle, limits={"max_in_flight": 1, "max_waiting": 0})
    for path in (INFER, "/v2/models/flight-delay/versions/7/infer", "/v2/models/x/infer"):
        assert served.ask(path, b"{}", pending=1).status == 503
    assert served.metric("tidemill_requests_total", outcome="overloaded") == 2
    assert served.metric("tidemill_refused_total", code="overloaded") == 3


def test_a_request_in_flight_is_a_gauge(served: Running) -> None:
    seen: list[float] = []
    model = served.served.inference.model

    class Watching:
        def run(self, *_: Any) -> Any:
            seen.append(served.served.counters.in_flight)
            raise RuntimeError

    object.__setattr__(model, "session", Watching())
    served.infer(FULL)
    assert seen == [1]
    assert served.metric("tidemill_requests_in_flight") == 0


def test_the_moment_of_training_tells_a_models_age(tmp_path: Path) -> None:
    lineage = {"trained_as_of": "2013-04-01T00:00:00+00:00"}
    manifest = replace(MANIFEST, lineage=lineage)
    served = start(write_bundle(tmp_path / "b", manifest=manifest))
    assert served.metric("tidemill_model_trained_timestamp_seconds", model="flight-delay") == (
        datetime(2013, 4, 1, tzinfo=UTC).timestamp()
    )


def test_a_model_that_does_not_tell_has_no_age(served: Running) -> None:
    content = served.ask("/metrics", method="GET").content.decode()
    assert "tidemill_model_trained_timestamp_seconds{" not in content


def test_the_build_is_told(served: Running) -> None:
    assert served.metric("tidemill_build_info", version=__version__) == 1


def test_losses_of_traces_and_lines_are_counted(bundle: Path) -> None:
    traces = {"endpoint": "http://127.0.0.1:9/v1/traces", "ratio": 1.0, "timeout_seconds": 0.1}
    served = start(bundle, traces=traces, access_log={"always_from": 500})
    served.infer(FULL)
    served.app.observer.close()
    assert served.metric("tidemill_trace_spans_total", outcome="lost") == 2
    assert served.metric("tidemill_trace_spans_total", outcome="exported") == 0
    lost = standard_error.lost
    content = served.ask("/metrics", method="GET").content.decode()
    assert f"tidemill_lines_lost_total {float(lost)}" in content
