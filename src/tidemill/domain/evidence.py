"""Evidence of a canary: counts per weight in, three-valued verdicts out.

Arms are pairs `(stable, canary)`. A bad event has a size in twentieths: an error or a slow request
is whole, the loss of a scored request is a fraction. Missing evidence is neither health nor harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.evalues import (
    Floats,
    alternatives,
    log_guard,
    log_mean_exp,
    log_restarts,
    log_sample_ratio,
    log_wealth,
    ratio_interval,
)

__all__ = [
    "LEVELS",
    "TOTAL",
    "Arrays",
    "Assessment",
    "Loss",
    "Metric",
    "Pair",
    "Segment",
    "Tolerance",
    "Verdict",
    "assess",
    "extend",
    "log_harm",
    "log_pass",
    "log_split",
]

TOTAL = 10_000
"""Weights are in 1/10000 of the requests."""
LEVELS = 20
"""A loss of 1 is this many levels."""
SEGMENT_TRIALS = 5_000
"""A segment is closed after this many trials, so that the harm test restarts there."""
MAX_SEGMENTS = 32
"""Older neighbours of one weight are merged above this, so that the state stays small."""

Arrays = tuple[Floats, Floats, Floats]
"""Weights `[K]` in (0, 1), levels `[L]` in (0, 1], losses `[..., K, L, 2]`; see `evalues`."""
Pair = tuple[int, int]
Loss = tuple[int, int, int]
"""Level 1..20, events of that size on stable, on canary."""
Verdict = Literal["harm", "pass", "undecided", "missing"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One bad event whose rate is compared between the arms."""

    name: str
    event: str
    """As in `settings.rollout.AnalysisMetric`."""
    harm_ratio: float
    pass_ratio: float
    max_rate: float | None
    alpha: float
    """This metric's own part of the attempt's false-rollback budget."""

    @property
    def delayed(self) -> bool:
        """Whether the event is known only once its label has matured."""
        return self.event == "wrong"

    @property
    def wanted(self) -> bool:
        """Whether harm is that the canary has too few of them: ratios are stable-to-canary."""
        return self.event in ("low", "high")

    @property
    def harm_at(self) -> float:
        """Log e-value of the harm test that decides; `max_rate` takes half of alpha."""
        return math.log(1 / self.alpha if self.max_rate is None else 2 / self.alpha)

    @property
    def guard_at(self) -> float:
        """Log e-value of the absolute guard that decides."""
        return math.log(2 / self.alpha)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The error rates and support that every metric of an attempt shares."""

    beta: float
    srm_alpha: float
    min_bad_events: int
    min_coverage: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Sufficient statistics of a stretch of requests under one weight."""

    ordinal: int
    """Counts from 0 in the order of time; gaps are where neighbours were merged."""
    epoch: int
    weight: int
    requests: Pair
    trials: Pair
    """Requests whose outcome is known; for counters all of them."""
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the evidence says about one metric, with its numbers."""

    metric: str
    verdict: Verdict
    reason: str
    log_e_harm: float
    harm_at: float
    log_e_pass: float
    pass_at: float
    log_e_split: float
    """Of the sample-ratio test, the largest of any weight."""
    split_at: float
    log_e_guard: tuple[float, float] | None
    guard_at: float
    limit: float | None
    """The absolute guard's `max_rate`."""
    ratio: tuple[float, float]
    """Canary-to-stable ratios that the evidence does not exclude at level beta."""
    requests: Pair
    trials: Pair
    bad: tuple[float, float]
    """Sum of losses."""
    stable_unhealthy: bool = False
    """Stable's rate is above the limit, or seems so while the canary's is: nobody to go back to."""


def extend(segments: tuple[Segment, ...], piece: Segment) -> tuple[Segment, ...]:
    """Append a window to the segments; its `ordinal` is set here.

    Within a segment nothing depends on how its windows were cut.
    """
    if segments and _open(segments[-1], piece):
        return (*segments[:-1], _join(segments[-1], piece))
    ordinal = segments[-1].ordinal + 1 if segments else 0
    return _thin((*segments, replace(piece, ordinal=ordinal)))


def _open(last: Segment, piece: Segment) -> bool:
    return last.epoch == piece.epoch and sum(last.trials) < SEGMENT_TRIALS


def _thin(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if len(segments) <= MAX_SEGMENTS:
        return segments
    for at, (a, b) in enumerate(pairwise(segments)):
        if a.epoch == b.epoch:
            return (*segments[:at], _join(a, b), *segments[at + 2 :])
    return segments


def _join(a: Segment, b: Segment) -> Segment:
    merged: dict[int, Pair] = {level: (stable, canary) for level, stable, canary in a.losses}
    for level, stable, canary in b.losses:
        merged[level] = _add(merged.get(level, (0, 0)), (stable, canary))
    losses = tuple((level, *merged[level]) for level in sorted(merged))
    return replace(
        a, requests=_add(a.requests, b.requests), trials=_add(a.trials, b.trials), losses=losses
    )


def _add(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _total(pairs: Iterable[Pair]) -> Pair:
    stable, canary = 0, 0
    for pair in pairs:
        stable, canary = stable + pair[0], canary + pair[1]
    return stable, canary


def assess(
    metric: Metric, segments: tuple[Segment, ...], tolerance: Tolerance, epoch: int
) -> Assessment:
    """Judge one metric by everything the attempt has seen; `epoch` is the weight in force.

    Segments of a weight whose observed split contradicts it count for the absolute guard alone.
    """
    compared = tuple(s for s in segments if s.weight < TOTAL)
    splits = {e: log_split(compared, e) for e in {s.epoch for s in compared}}
    split_at = math.log(1 / tolerance.srm_alpha)
    broken = {e for e, log_e in splits.items() if log_e >= split_at}
    usable = tuple(s for s in compared if s.epoch not in broken)
    arrays = _arrays(usable)
    requests, trials = _total(s.requests for s in segments), _total(s.trials for s in segments)
    ordinals = np.array([s.ordinal for s in usable], dtype=np.int64)
    guard = None if metric.max_rate is None else _guard(segments, trials, metric.max_rate)
    found = Assessment(
        metric=metric.name,
        verdict="undecided",
        reason="",
        log_e_harm=float(log_harm(metric, arrays, ordinals)),
        harm_at=metric.harm_at,
        log_e_pass=float(log_pass(metric, arrays)),
        pass_at=math.log(1 / tolerance.beta),
        log_e_split=max(splits.values(), default=0.0),
        split_at=split_at,
        log_e_guard=guard,
        guard_at=metric.guard_at,
        limit=metric.max_rate,
        ratio=ratio_interval(*arrays, tolerance.beta),
        requests=requests,
        trials=trials,
        bad=_bad(segments),
    )
    events = _events(segments)
    return _judge(metric, found, tolerance, events, broken=epoch in broken)


def log_harm(metric: Metric, arrays: Arrays, ordinals: NDArray[np.int64]) -> Floats:
    """Return the log e-value against "at most `harm_ratio` times as bad", per attempt `[...]`."""
    ratios = alternatives(metric.harm_ratio, "harm")
    return log_restarts(log_wealth(*_facing(metric, arrays), ratios, metric.harm_ratio), ordinals)


def log_pass(metric: Metric, arrays: Arrays) -> Floats:
    """Return the log e-value against "at least `pass_ratio` times as bad", per attempt `[...]`."""
    ratios = alternatives(metric.pass_ratio, "pass")
    wealth = log_wealth(*_facing(metric, arrays), ratios, metric.pass_ratio)
    return log_mean_exp(wealth.sum(axis=-2))


def _facing(metric: Metric, arrays: Arrays) -> Arrays:
    """Return the evidence, its arms exchanged if the event is a wanted one."""
    if not metric.wanted:
        return arrays
    weights, levels, losses = arrays
    return 1 - weights, levels, losses[..., ::-1]


def log_split(segments: tuple[Segment, ...], epoch: int) -> float:
    """Return the log e-value against "requests of `epoch` were split as its weight says"."""
    inside = [s for s in segments if s.epoch == epoch and 0 < s.weight < TOTAL]
    if not inside:
        return 0.0
    return log_sample_ratio(*_total(s.trials for s in inside), inside[0].weight / TOTAL)


def _judge(
    metric: Metric, found: Assessment, tolerance: Tolerance, events: Pair, *, broken: bool
) -> Assessment:
    enough = events[0 if metric.wanted else 1] >= tolerance.min_bad_events
    stable_guard, canary_guard = (
        e >= found.guard_at for e in (found.log_e_guard or (-math.inf, -math.inf))
    )
    sick = stable_guard and events[0] >= tolerance.min_bad_events
    if canary_guard and found.limit is not None and found.trials[0]:
        sick = sick or found.bad[0] / found.trials[0] > found.limit
    found = replace(found, stable_unhealthy=sick)
    coverage = min(_share(t, r) for t, r in zip(found.trials, found.requests, strict=True))
    if canary_guard and enough and not sick:
        return replace(found, verdict="harm", reason="the canary's rate is above max_rate")
    if broken:
        reason = "the observed split of requests contradicts the weight"
        return replace(found, verdict="missing", reason=reason)
    if not sum(found.trials):
        return replace(found, verdict="missing", reason="no outcomes yet")
    if coverage < tolerance.min_coverage:
        reason = f"only {coverage:.0%} of an arm's requests have an outcome"
        return replace(found, verdict="missing", reason=reason)
    if found.log_e_harm >= found.harm_at and enough:
        reason = "too few of them beyond" if metric.wanted else "worse than stable beyond"
        return replace(found, verdict="harm", reason=f"{reason} harm_ratio")
    if found.log_e_pass >= found.pass_at:
        return replace(found, verdict="pass", reason="within pass_ratio of stable")
    return found


def _arrays(segments: tuple[Segment, ...]) -> Arrays:
    levels = sorted({level for s in segments for level, *_ in s.losses}) or [LEVELS]
    losses = np.zeros((len(segments), len(levels), 2))
    for k, segment in enumerate(segments):
        for level, stable, canary in segment.losses:
            losses[k, levels.index(level)] = stable, canary
    weights = np.array([s.weight / TOTAL for s in segments], dtype=np.float64)
    return weights, np.array(levels) / LEVELS, losses


def _guard(segments: tuple[Segment, ...], trials: Pair, limit: float) -> tuple[float, float]:
    bad = _bad(segments)
    stable, canary = log_guard(trials, bad, limit)
    return float(stable), float(canary)


def _events(segments: tuple[Segment, ...]) -> Pair:
    return _total((stable, canary) for s in segments for _, stable, canary in s.losses)


def _bad(segments: tuple[Segment, ...]) -> tuple[float, float]:
    sizes = [(lv * stable, lv * canary) for s in segments for lv, stable, canary in s.losses]
    stable, canary = _total(sizes)
    return stable / LEVELS, canary / LEVELS


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
