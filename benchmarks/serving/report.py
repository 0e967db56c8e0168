"""The report: tables, ratios and targets, from what the rounds measured.

Ratios are medians of the rounds' ratios. Those of requests per second compare what a client gets;
those per CPU second say the same with less of what else ran on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from statistics import median

from benchmarks.serving.contestants import BARE, CONTESTANTS, FULL, LEAN, MLSERVER
from benchmarks.serving.encoding import BINARY, JSON
from benchmarks.serving.load import Load
from benchmarks.serving.rounds import SIZES, Result
from benchmarks.serving.rpc import GRPC

__all__ = ["render"]

Results = Mapping[str, Result]
Kind = tuple[str, int]
"""Encoding and rows per request."""
Get = Callable[[Load], float]
Table = list[list[str]]

RATE: Get = attrgetter("rate")
CPU_RATE: Get = attrgetter("cpu_rate")
P50: Get = attrgetter("p50_ms")
P99: Get = attrgetter("p99_ms")
SINGLE: Kind = (JSON.name, 1)
BATCH: Kind = (JSON.name, 32)
ABSENT = "–"


@dataclass(frozen=True)
class Floor:
    """A multiple of somebody's requests per second that was promised."""

    text: str
    kind: Kind
    base: str
    base_kind: Kind
    least: float

    def line(self, ran: Results) -> str:
        """Return whether it is met, with the figures."""
        if missing := {FULL, self.base} - ran.keys():
            return f"not measured  {self.text}: {', '.join(missing)} took no part"
        loads, base = ran[FULL].loads[self.kind], ran[self.base].loads[self.base_kind]
        times, cpu_times = _times(loads, base, RATE), _times(loads, base, CPU_RATE)
        verdict = _verdict(times >= self.least)
        return f"{verdict}  {self.text}: {times:.2f}x; per CPU second {cpu_times:.2f}x"


@dataclass(frozen=True)
class Ceiling:
    """A figure that must not be exceeded."""

    text: str
    figures: Callable[[Result], list[float]]
    """One per round; their median counts."""
    most: float

    def line(self, ran: Results) -> str:
        """Return whether it is met, with the figure."""
        if FULL not in ran:
            return f"not measured  {self.text}: {FULL} took no part"
        figure = median(self.figures(ran[FULL]))
        return f"{_verdict(figure <= self.most)}  {self.text}: {figure:.3g}"


TARGETS = (
    Floor("1 row JSON >= 10x MLServer", SINGLE, MLSERVER, SINGLE, 10),
    Floor("1 row JSON >= 10x MLServer, lean", SINGLE, LEAN, SINGLE, 10),
    Floor("1 row JSON >= 0.85x bare uvicorn", SINGLE, BARE, SINGLE, 0.85),
    Floor("32 rows JSON >= 0.9x bare uvicorn", BATCH, BARE, BATCH, 0.9),
    Floor("32 rows binary >= 3x JSON", (BINARY.name, 32), FULL, BATCH, 3),
    Ceiling("p99 at most 5 times p50 at half load", lambda result: _tails(result), 5),
    Ceiling("at most 120 MB resident when ready", attrgetter("ready_mb"), 120),
    Ceiling("at most 120 MB resident after the load", attrgetter("rss_mb"), 120),
    Ceiling("at most 1.5 s of CPU to start", attrgetter("start_cpu"), 1.5),
)


def render(results: Results) -> str:
    """Return the whole report."""
    ran = {name: result for name, result in results.items() if not result.missing}
    counts = ran[FULL].counts if FULL in ran else {}
    lines = [
        "JSON, 1 row per request; half: at about half of the round's maximum",
        *_aligned(_speeds(ran)),
        "",
        "The same per 1,000 requests, its ratio in requests per CPU second, and the share of the "
        "core that the server got; resident memory, start to ready",
        *_aligned(_costs(ran)),
        "",
        "Rows per second, and as a multiple of bare uvicorn's JSON of the same size",
        *_aligned(_rows(ran, RATE)),
        "",
        "Rows per CPU second of the server, likewise",
        *_aligned(_rows(ran, CPU_RATE)),
        "",
        f"Targets of {FULL} with every guard on, in requests per second",
        *(f"  {target.line(ran)}" for target in TARGETS),
        *(f"  {name} of the last round: {count:,.0f}" for name, count in counts.items()),
        "",
        "Configured",
        *(f"  {c.name}: {c.configured}" for c in CONTESTANTS if c.name in ran),
        *(f"  {name} took no part: {r.missing}" for name, r in results.items() if r.missing),
    ]
    return "\n".join(lines)


def _speeds(ran: Results) -> Table:
    head = ("requests/s", "x MLServer", "x bare", "p50 ms", "p99 ms")
    table = [["", *head, "half: of max", "p50 ms", "p99 ms", "p99/p50"]]
    for name, result in ran.items():
        loads = result.loads[SINGLE]
        table.append(
            [
                name,
                f"{_median(loads, RATE):,.0f}",
                *(_ratio(ran, loads, base, SINGLE, RATE) for base in (MLSERVER, BARE)),
                *(f"{_median(loads, get):.2f}" for get in (P50, P99)),
                f"{_times(result.half, loads, RATE):.0%}",
                *(f"{_median(result.half, get):.2f}" for get in (P50, P99)),
                f"{median(_tails(result)):.1f}",
            ]
        )
    return table


def _costs(ran: Results) -> Table:
    head = ("CPU s", "x MLServer", "x bare", "of core", "MB ready", "MB after")
    table = [["", *head, "start: CPU s", "wall s"]]
    for name, result in ran.items():
        loads = result.loads[SINGLE]
        table.append(
            [
                name,
                f"{1000 / _median(loads, CPU_RATE):.3f}",
                *(_ratio(ran, loads, base, SINGLE, CPU_RATE) for base in (MLSERVER, BARE)),
                f"{_median(loads, attrgetter('core_share')):.0%}",
                *(f"{median(memory):.0f}" for memory in (result.ready_mb, result.rss_mb)),
                *(f"{median(time):.2f}" for time in (result.start_cpu, result.start_seconds)),
            ]
        )
    return table


def _rows(ran: Results, get: Get) -> Table:
    kinds = [(encoding.name, rows) for encoding in (JSON, BINARY, GRPC) for rows in SIZES]
    table = [["", *(f"{encoding} {rows}" for encoding, rows in kinds)]]
    for name, result in ran.items():
        table.append([name, *(_row_rate(ran, result, kind, get) for kind in kinds)])
    return table


def _row_rate(ran: Results, result: Result, kind: Kind, get: Get) -> str:
    if kind not in result.loads:
        return ABSENT
    loads, rows = result.loads[kind], kind[1]
    ratio = _ratio(ran, loads, BARE, (JSON.name, rows), get)
    return f"{rows * _median(loads, get):,.0f} ({ratio})"


def _ratio(ran: Results, loads: list[Load], base: str, kind: Kind, get: Get) -> str:
    return f"{_times(loads, ran[base].loads[kind], get):.2f}x" if base in ran else ABSENT


def _times(loads: list[Load], others: list[Load], get: Get) -> float:
    return median(get(load) / get(other) for load, other in zip(loads, others, strict=True))


def _tails(result: Result) -> list[float]:
    return [load.p99_ms / load.p50_ms for load in result.half]


def _median(loads: Iterable[Load], get: Get) -> float:
    return median(map(get, loads))


def _verdict(met: bool) -> str:
    return "met   " if met else "MISSED"


def _aligned(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in table
    ]
