"""The report: tables, ratios and targets, from what the rounds measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.serving.contestants import BARE, CONTESTANTS, FULL, MLSERVER
from benchmarks.serving.encoding import BINARY, ENCODINGS, JSON
from benchmarks.serving.load import Load
from benchmarks.serving.rounds import SIZES, Result

__all__ = ["render"]

Results = Mapping[str, Result]
Table = list[list[str]]
SINGLE, BATCH = (JSON.name, 1), (JSON.name, 32)
ABSENT = "–"


@dataclass(frozen=True)
class Target:
    """A figure that was promised."""

    text: str
    figure: Callable[[Results], float]
    """Raises KeyError when someone it needs took no part."""
    bound: float
    least: bool = True
    """The figure must be at least the bound, or else at most."""
    shown: str = "{:.2f}x"

    def line(self, results: Results) -> str:
        """Return one line: met or missed, with the figure."""
        try:
            figure = self.figure(results)
        except KeyError as missing:
            return f"not measured  {self.text}: {missing.args[0]} took no part"
        met = figure >= self.bound if self.least else figure <= self.bound
        return f"{'met   ' if met else 'MISSED'}  {self.text}: {self.shown.format(figure)}"


TARGETS = (
    Target("1 row JSON >= 10x MLServer", lambda r: _ratio(r, FULL, MLSERVER, SINGLE), 10),
    Target("1 row JSON >= 0.85 of bare uvicorn", lambda r: _ratio(r, FULL, BARE, SINGLE), 0.85),
    Target("32 rows JSON >= 0.9 of bare uvicorn", lambda r: _ratio(r, FULL, BARE, BATCH), 0.9),
    Target(
        "32 rows binary >= 3x JSON",
        lambda r: _paired(r[FULL].loads[BINARY.name, 32], r[FULL].loads[BATCH]),
        3,
    ),
    Target("p99 <= 5x p50 at half load", lambda r: _tail(r[FULL].half), 5, least=False),
    Target("RSS <= 120 MB when ready", lambda r: median(r[FULL].ready_mb), 120, False, "{:.0f} MB"),
    Target("RSS <= 120 MB after load", lambda r: median(r[FULL].rss_mb), 120, False, "{:.0f} MB"),
    Target("start <= 1.5 s of CPU", lambda r: median(r[FULL].start_cpu), 1.5, False, "{:.2f} s"),
)
"""All of the server with every guard on, in requests per second."""


def render(results: Results) -> str:
    """Return the whole report."""
    ran = {name: result for name, result in results.items() if not result.missing}
    log = ran[FULL].counts if FULL in ran else {}
    lines = [
        "JSON, 1 row per request; half: at half of the round's maximum",
        *_aligned(_speeds(ran)),
        "",
        "CPU per 1,000 requests of JSON, 1 row; x: requests per CPU second; memory; start to ready",
        *_aligned(_costs(ran)),
        "",
        "Rows per second, and as a multiple of bare uvicorn's JSON of the same size",
        *_aligned(_rows(ran)),
        "",
        f"Targets, {FULL} with every guard on, medians of the rounds' ratios of requests/s",
        *(f"  {target.line(ran)}" for target in TARGETS),
        *(f"  {name}: {count:,.0f}" for name, count in log.items()),
        "",
        "Configured",
        *(f"  {c.name}: {c.configured}" for c in CONTESTANTS if c.name in ran),
        *(f"  {name} took no part: {r.missing}" for name, r in results.items() if r.missing),
    ]
    return "\n".join(lines)


def _speeds(ran: Results) -> Table:
    head = ("requests/s", "x MLServer", "x bare", "p50 ms", "p99 ms")
    table = [["", *head, "half: p50", "p99 ms", "p99/p50"]]
    for name, result in ran.items():
        loads = result.loads[SINGLE]
        table.append(
            [
                name,
                f"{_median(loads, lambda load: load.rate):,.0f}",
                *(_times(ran, name, base) for base in (MLSERVER, BARE)),
                *(f"{_median(loads, get):.2f}" for get in (_p50, _p99)),
                *(f"{_median(result.half, get):.2f}" for get in (_p50, _p99)),
                f"{_tail(result.half):.1f}",
            ]
        )
    return table


def _costs(ran: Results) -> Table:
    head = ("CPU s/1,000", "x MLServer", "x bare", "MB ready", "MB after")
    table = [["", *head, "start: CPU s", "wall s"]]
    for name, result in ran.items():
        loads = result.loads[SINGLE]
        table.append(
            [
                name,
                f"{_median(loads, lambda load: load.cpu_per_thousand):.3f}",
                *(_cost_times(ran, name, base) for base in (MLSERVER, BARE)),
                *(f"{median(memory):.0f}" for memory in (result.ready_mb, result.rss_mb)),
                *(f"{median(time):.2f}" for time in (result.start_cpu, result.start_seconds)),
            ]
        )
    return table


def _rows(ran: Results) -> Table:
    kinds = [(encoding.name, rows) for encoding in ENCODINGS for rows in SIZES]
    table = [["", *(f"{encoding} {rows}" for encoding, rows in kinds)]]
    for name, result in ran.items():
        table.append([name, *(_speed(ran, result, kind) for kind in kinds)])
    return table


def _speed(ran: Results, result: Result, kind: tuple[str, int]) -> str:
    if kind not in result.loads:
        return ABSENT
    loads, rows = result.loads[kind], kind[1]
    speed = f"{rows * _median(loads, lambda load: load.rate):,.0f}"
    if BARE not in ran:
        return speed
    return f"{speed} ({_paired(loads, ran[BARE].loads[JSON.name, rows]):.2f}x)"


def _times(ran: Results, name: str, base: str) -> str:
    return f"{_ratio(ran, name, base, SINGLE):.2f}x" if base in ran else ABSENT


def _cost_times(ran: Results, name: str, base: str) -> str:
    """Return how many times the requests per CPU second of another."""
    if base not in ran:
        return ABSENT
    pairs = zip(ran[name].loads[SINGLE], ran[base].loads[SINGLE], strict=True)
    return f"{median(b.cpu_per_thousand / a.cpu_per_thousand for a, b in pairs):.2f}x"


def _ratio(ran: Results, name: str, base: str, kind: tuple[str, int]) -> float:
    return _paired(ran[name].loads[kind], ran[base].loads[kind])


def _paired(loads: Iterable[Load], others: Iterable[Load]) -> float:
    """Return the median of the rounds' ratios of requests per second."""
    return median(a.rate / b.rate for a, b in zip(loads, others, strict=True))


def _tail(loads: Iterable[Load]) -> float:
    return median(load.p99_ms / load.p50_ms for load in loads)


def _median(loads: Iterable[Load], get: Callable[[Load], float]) -> float:
    return median(map(get, loads))


def _p50(load: Load) -> float:
    return load.p50_ms


def _p99(load: Load) -> float:
    return load.p99_ms


def _aligned(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in table
    ]
