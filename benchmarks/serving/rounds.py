"""The rounds: every contestant in turn, started, checked, driven, stopped."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.serving import mlp
from benchmarks.serving.contestants import Contestant, Entry
from benchmarks.serving.encoding import JSON, Encoding
from benchmarks.serving.load import CONNECTIONS, Load, Request
from benchmarks.serving.process import Server, run
from tidemill.errors import Unavailable

__all__ = ["SIZES", "Course", "Result", "check", "measure"]

SIZES = (1, 32, 256)
"""Rows per request."""
TOLERANCE = 1e-5
WARM_SECONDS = 1
TICK_MS = 1.0
"""A pause of wrk ends at a tick of its clock, about one later than asked."""


@dataclass(frozen=True)
class Course:
    """How long it is driven, and on which cores."""

    rounds: int
    seconds: int
    """Of each drive; wrk knows whole seconds alone."""
    server_core: int
    client_core: int


@dataclass
class Result:
    """What was measured of one contestant; lists hold one item per round."""

    loads: dict[tuple[str, int], list[Load]] = field(default_factory=dict)
    """By encoding and rows per request."""
    half: list[Load] = field(default_factory=list)
    """JSON, one row, at half of the round's maximum."""
    start_cpu: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)
    ready_mb: list[float] = field(default_factory=list)
    """Resident memory when it is ready …"""
    rss_mb: list[float] = field(default_factory=list)
    """… and after the load."""
    counts: dict[str, float] = field(default_factory=dict)
    """Its own counters at the end of the last round, where it has any of the prediction log."""
    missing: str = ""
    """Why it took no part, or stopped taking part."""


def measure(contestants: Iterable[Contestant], course: Course) -> dict[str, Result]:
    """Return the results by contestant; who fails is left out of later rounds, with the reason."""
    turn = list(contestants)
    results = {contestant.name: Result() for contestant in turn}
    for number in range(course.rounds):
        for contestant in turn if number % 2 == 0 else reversed(turn):
            result = results[contestant.name]
            if not result.missing:
                _say(f"round {number + 1} of {course.rounds}: {contestant.name}")
                try:
                    with _started(contestant, course) as (entry, server):
                        _round(contestant, entry, server, course, result)
                except (Unavailable, httpx.HTTPError, psutil.Error) as error:
                    result.missing = str(error).partition("\n")[0]
                    _say(f"  {result.missing}")
    return results


@contextmanager
def _started(contestant: Contestant, course: Course) -> Iterator[tuple[Entry, Server]]:
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as name:
        folder = Path(name)
        entry = contestant.prepare(folder)
        with run(entry.launch, course.server_core, folder / "output") as server:
            yield entry, server


def _round(
    contestant: Contestant, entry: Entry, server: Server, course: Course, result: Result
) -> None:
    result.start_cpu.append(server.start_cpu)
    result.start_seconds.append(server.start_seconds)
    result.ready_mb.append(server.rss_mb)
    requests = {
        (encoding.name, rows): (encoding, check(encoding, entry, server, rows))
        for encoding in contestant.encodings
        for rows in SIZES
    }
    core = course.client_core
    single = requests[JSON.name, 1][1]
    JSON.drive(server, single, core=core, seconds=WARM_SECONDS)
    for kind, (encoding, request) in requests.items():
        load = encoding.drive(server, request, core=core, seconds=course.seconds)
        result.loads.setdefault(kind, []).append(load)
    pause_ms = _half_pause(result.loads[JSON.name, 1][-1])
    half = JSON.drive(server, single, core=core, seconds=course.seconds, pause_ms=pause_ms)
    result.half.append(half)
    result.rss_mb.append(server.rss_mb)
    result.counts = _log_counts(server)


def check(encoding: Encoding, entry: Entry, server: Server, rows: int) -> Request:
    """Return the request for `rows` rows, once its answer was found right.

    Raises Unavailable when the scores are not those of ONNX Runtime in this process.
    """
    values = mlp.make_rows(rows)
    request = encoding.pack(entry.layout, values, entry.headers)
    found, wanted = encoding.ask(server, request), mlp.expect(values)
    if found.shape != wanted.shape or np.abs(found - wanted).max() > TOLERANCE:
        raise Unavailable(
            f"{encoding.name}, {rows} rows: it answered {found[:3]}…, expected {wanted[:3]}…"
        )
    return request


def _half_pause(full: Load) -> float:
    """Return the pause that about halves the rate, as if an answer took no time at half load.

    Little's law, https://en.wikipedia.org/wiki/Little%27s_law; the report shows what it came to.
    """
    return max(1000 * CONNECTIONS / (full.rate / 2) - TICK_MS, TICK_MS)


def _log_counts(server: Server) -> dict[str, float]:
    """Return what the server says of its prediction log; empty for those that have none."""
    answer = httpx.get(f"{server.http}/metrics")
    lines = [line.rpartition(" ") for line in answer.text.splitlines()]
    return {
        name.partition("{")[0]: float(value)
        for name, _, value in lines
        if name.startswith(("tidemill_log_rows_total", "tidemill_log_lost_total"))
    }


def _say(line: str) -> None:
    print(f"  [{os.getloadavg()[0]:.1f}] {line}", file=sys.stderr, flush=True)
