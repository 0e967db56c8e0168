"""Error rates and speed of a shadow step's decisions: `python -m benchmarks shadow`.

Simulated pairs with fixed seeds, judged after every tenth pair by the function that decides, beside
a z-test that is looked at as often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.evidence import Tolerance, Verdict
from tidemill.domain.paired import PairedRate, judge_pairs

Counts = NDArray[np.int64]
LIMIT, ALPHA, BETA = 0.05, 0.01, 0.05
METRIC = PairedRate("disagreement", "flip", LIMIT, 0.1, ALPHA)
TOLERANCE = Tolerance(BETA, 0.0001, 5, 0.8)
EVERY, LOOKS, RUNS = 10, 1000, 20_000
PAIRS = EVERY * np.arange(1, LOOKS + 1)
BATCH = 2_000


def main() -> None:
    """Print the tables."""
    harm_from, pass_to = _least("harm"), _most("pass")
    harm = lambda events: events >= harm_from  # noqa: E731
    passed = lambda events: events <= pass_to  # noqa: E731
    print(f"limit {LIMIT:.0%}, alpha {ALPHA:.0%}, beta {BETA:.0%}; {RUNS:,} runs of {PAIRS[-1]:,}"
          f" pairs, looked at after every {EVERY}")  # fmt: skip
    print("\ntrue rate  wrongly harmful  wrongly passed  z-test passed")
    for rate in (0.025, 0.05, 0.0625):
        found = [_share(rate, decide) for decide in (harm, passed, _z_passes)]
        told = [f"{share:.2%}" if wrong else "-" for share, wrong in zip(
            found, (rate <= LIMIT, rate >= LIMIT, rate >= LIMIT), strict=True)]  # fmt: skip
        print(f"{rate:9.2%}  {told[0]:>15}  {told[1]:>14}  {told[2]:>13}")
    print("\ntrue rate  decision  share  pairs, median and 95 %")
    for rate in (0.0, 0.01, 0.025, 0.04, 0.075, 0.1, 0.2, 0.5):
        name, decide = ("pass", passed) if rate < LIMIT else ("harm", harm)
        share, median, late = _speed(rate, decide)
        print(f"{rate:9.1%}  {name:>8}  {share:5.1%}  {median:,.0f} and {late:,.0f}")


def _verdict(events: int, pairs: int) -> Verdict:
    return judge_pairs(METRIC, (pairs, events), TOLERANCE)


def _least(verdict: Verdict) -> Counts:
    """Return the least events that are `verdict`, by number of pairs; too many if none are."""
    return np.array([_first(lambda x, n=n: _verdict(x, n) == verdict, n + 1) for n in PAIRS])


def _most(verdict: Verdict) -> Counts:
    """Return the most events that are `verdict`, by number of pairs; -1 if none are."""
    return np.array([_first(lambda x, n=n: _verdict(x, n) != verdict, n + 1) - 1 for n in PAIRS])


def _first(holds: Callable[[int], bool], end: int) -> int:
    """Return the first number for which `holds`, which it does from there on, or `end`."""
    low = 0
    while low < end:
        middle = (low + end) // 2
        low, end = (low, middle) if holds(middle) else (middle + 1, end)
    return low


def _runs(rate: float, decide: Callable[[Counts], NDArray[np.bool]]) -> NDArray[np.bool]:
    """Return whether each look decides, `[runs, looks]`."""
    rng = np.random.default_rng(17)
    hits = []
    for _ in range(RUNS // BATCH):
        events = rng.binomial(EVERY, rate, size=(BATCH, LOOKS)).cumsum(axis=1)
        hits.append(decide(events))
    return np.concatenate(hits)


def _share(rate: float, decide: Callable[[Counts], NDArray[np.bool]]) -> float:
    return float(_runs(rate, decide).any(axis=1).mean())


def _speed(rate: float, decide: Callable[[Counts], NDArray[np.bool]]) -> tuple[float, float, float]:
    hits = _runs(rate, decide)
    decided = hits.any(axis=1)
    pairs = np.where(decided, PAIRS[hits.argmax(axis=1)], np.inf)
    return float(decided.mean()), *(
        float(np.quantile(pairs, q, method="lower")) for q in (0.5, 0.95)
    )


def _z_passes(events: Counts) -> NDArray[np.bool]:
    """Decide as a one-sided z-test does that believes in its single look."""
    error = np.sqrt(LIMIT * (1 - LIMIT) * PAIRS)
    return (events - LIMIT * PAIRS) / error < -1.645
