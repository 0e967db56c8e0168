"""Pairs: the same request answered by stable and canary, judged by a rate of what they differ in.

Of n pairs x were an event. Against "the rate is q" bets the beta-binomial mixture with Jeffreys'
prior: its wealth is B(x + 1/2, n - x + 1/2) / B(1/2, 1/2) / (q^x (1 - q)^(n - x)), a martingale
with mean 1 if q is true, so by Ville's inequality it ever reaches 1/a with probability at most a
(Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", 1970; Howard, Ramdas,
McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
Statistics 2021, arXiv 1810.08240). The rates whose wealth is below 1/a are a confidence sequence:
it may be looked at after every pair. The logarithm of the mixture's denominator is concave in q,
so a limit that is excluded from above excludes every larger rate with it.

A pair needs no other arm's rate to compare with: it is its own control.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tidemill.domain.evidence import Tolerance, Verdict

__all__ = [
    "Answered",
    "PairedAssessment",
    "PairedEvent",
    "PairedRate",
    "Tally",
    "assess_pairs",
    "compare",
    "judge_pairs",
    "log_rate",
    "pairs_until",
    "rate_interval",
]

PairedEvent = Literal["flip", "difference", "failed", "slower"]
Tally = tuple[int, int]
"""Pairs that could have been an event, pairs that were."""
BISECTIONS = 40
MOST_PAIRS = 10_000_000
"""`pairs_until` gives up here."""


@dataclass(frozen=True, slots=True)
class Answered:
    """How one arm answered a request."""

    ok: bool
    slow: bool
    scores: tuple[float | None, ...]
    """Of the first rows; None is no number."""


@dataclass(frozen=True, slots=True)
class PairedRate:
    """One event whose share of the pairs must stay below a limit."""

    name: str
    event: PairedEvent
    """As in `settings.shadow.PairedMetric`."""
    max_rate: float
    max_difference: float
    """Scores that are further apart are the event `difference`."""
    alpha: float
    """This metric's own part of the attempt's false-rollback budget."""

    @property
    def harm_at(self) -> float:
        """Log e-value that shows a rate above the limit."""
        return math.log(1 / self.alpha)


@dataclass(frozen=True, slots=True)
class PairedAssessment:
    """What the pairs say about one metric, with its numbers."""

    metric: str
    verdict: Verdict
    reason: str
    log_e: float
    """Against "the rate is `limit`", in either direction."""
    harm_at: float
    pass_at: float
    rate: tuple[float, float]
    """Rates that the pairs do not exclude at level beta."""
    limit: float
    pairs: int
    events: int


def compare(
    metric: PairedRate, pair: tuple[Answered, Answered], thresholds: tuple[float, float]
) -> Tally:
    """Return what one pair counts: whether it could be the event, whether it is.

    `pair` and `thresholds` are of stable and canary. Where stable has no answer there is nothing to
    compare with.
    """
    stable, canary = pair
    if metric.event == "failed":
        return int(stable.ok), int(stable.ok and not canary.ok)
    if not (stable.ok and canary.ok):
        return 0, 0
    if metric.event == "slower":
        return 1, int(canary.slow and not stable.slow)
    rows = list(zip(stable.scores, canary.scores, strict=False))
    if metric.event == "flip":
        differ = any(_label(a, thresholds[0]) != _label(b, thresholds[1]) for a, b in rows)
    else:
        differ = any(a is None or b is None or abs(a - b) > metric.max_difference for a, b in rows)
    return 1, int(differ or len(stable.scores) != len(canary.scores))


def _label(score: float | None, threshold: float) -> bool | None:
    """Return what a score predicts; None if it is no probability."""
    return score >= threshold if score is not None and 0 <= score <= 1 else None


def assess_pairs(metric: PairedRate, tally: Tally, tolerance: Tolerance) -> PairedAssessment:
    """Judge one metric by all pairs that the attempt has seen."""
    pairs, events = tally
    verdict = judge_pairs(metric, tally, tolerance)
    reasons: dict[Verdict, str] = {
        "missing": "no pairs yet",
        "harm": f"{events} of {pairs} pairs, above max_rate",
        "pass": "below max_rate",
    }
    return PairedAssessment(
        metric=metric.name,
        verdict=verdict,
        reason=reasons.get(verdict, ""),
        log_e=log_rate(pairs, events, metric.max_rate),
        harm_at=metric.harm_at,
        pass_at=math.log(1 / tolerance.beta),
        rate=rate_interval(pairs, events, tolerance.beta),
        limit=metric.max_rate,
        pairs=pairs,
        events=events,
    )


def judge_pairs(metric: PairedRate, tally: Tally, tolerance: Tolerance) -> Verdict:
    """Return what the pairs show: a rate above the limit, below it, or neither yet."""
    pairs, events = tally
    if not pairs:
        return "missing"
    log_e = log_rate(pairs, events, metric.max_rate)
    if events > metric.max_rate * pairs:
        shown = log_e >= metric.harm_at and events >= tolerance.min_bad_events
        return "harm" if shown else "undecided"
    return "pass" if log_e >= math.log(1 / tolerance.beta) else "undecided"


def log_rate(pairs: int, events: int, rate: float) -> float:
    """Return the log e-value against "each pair is an event with chance `rate`"."""
    others = pairs - events
    mixture = (
        math.lgamma(events + 0.5) + math.lgamma(others + 0.5) - math.lgamma(pairs + 1)
    ) - math.log(math.pi)
    return mixture - events * math.log(rate) - others * math.log1p(-rate)


def rate_interval(pairs: int, events: int, alpha: float) -> tuple[float, float]:
    """Return the rates that are not excluded at level `alpha`, at any time; [0, 1] at the start."""
    if not pairs:
        return 0.0, 1.0
    found, limit = events / pairs, math.log(1 / alpha)
    low = 0.0 if not events else _edge(pairs, events, limit, inside=found, outside=0.0)
    high = 1.0 if events == pairs else _edge(pairs, events, limit, inside=found, outside=1.0)
    return low, high


def _edge(pairs: int, events: int, limit: float, *, inside: float, outside: float) -> float:
    """Bisect for the rate between a possible and an impossible one where the e-value decides."""
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        excluded = log_rate(pairs, events, middle) >= limit
        inside, outside = (inside, middle) if excluded else (middle, outside)
    return outside


def pairs_until(metric: PairedRate, nats: float, rate: float) -> float:
    """Return the pairs until the e-value reaches `nats` if `rate` of them are events, roughly.

    Infinite where that takes more than ten million.
    """
    pairs = 1
    while log_rate(pairs, round(rate * pairs), metric.max_rate) < nats:
        if pairs > MOST_PAIRS:
            return math.inf
        pairs = pairs + 1 + pairs // 50
    return float(pairs)
