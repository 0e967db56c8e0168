"""The benchmark of inference servers drives the real server."""

from __future__ import annotations

import os
import shutil

import pytest
from benchmarks.serving.contestants import CONTESTANTS, FULL
from benchmarks.serving.rounds import SIZES, Course, measure
from tests.refusal import refuse

WITH_GRPC = "tidemill, gRPC on"


@pytest.fixture(autouse=True)
def _loaders() -> None:
    if not (shutil.which("wrk") and shutil.which("h2load")):
        reason = "wrk or h2load is absent: apt-get install wrk nghttp2-client"
        refuse("NO TESTS OF THE SERVING BENCHMARK", reason)


def test_our_server_is_checked_driven_and_counted() -> None:
    cores = sorted(os.sched_getaffinity(0))
    ours = [contestant for contestant in CONTESTANTS if contestant.name == FULL]

    result = measure(ours, Course(1, 1, cores[0], cores[-1]))[FULL]

    assert not result.missing
    assert set(result.loads) == {(name, rows) for name in ("JSON", "binary") for rows in SIZES}
    assert all(load.requests and load.cpu_seconds for (load,) in result.loads.values())
    (half,), (full,) = result.half, result.loads["JSON", 1]
    assert half.rate < full.rate
    assert result.rss_mb[0] >= result.ready_mb[0] > 0
    # Rows may be lost where other tests have the cores, but none uncounted.
    assert result.counts["tidemill_log_rows_total"] > 0
    assert result.counts["tidemill_log_lost_total"] >= 0


def test_our_server_is_driven_over_grpc_with_the_same_rows() -> None:
    cores = sorted(os.sched_getaffinity(0))
    ours = [contestant for contestant in CONTESTANTS if contestant.name == WITH_GRPC]

    result = measure(ours, Course(1, 1, cores[0], cores[-1]))[WITH_GRPC]

    assert not result.missing
    assert set(result.loads) == {(name, rows) for name in ("JSON", "gRPC") for rows in SIZES}
    assert all(
        load.requests and 0 < load.p50_ms <= load.p99_ms for (load,) in result.loads.values()
    )
