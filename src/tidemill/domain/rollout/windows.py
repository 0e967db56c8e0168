"""From what was read to what an attempt remembers: each window once, under the weight it ran in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from tidemill.domain.evidence import LEVELS, TOTAL, Pair, Segment, assess, extend
from tidemill.domain.rollout.model import (
    Attempt,
    Counters,
    Evidence,
    Now,
    Reading,
    Snapshot,
    Span,
    State,
)

__all__ = ["REQUESTS", "absorb", "close_span", "settled"]

REQUESTS = "requests"
"""Name of the series of bare traffic."""


def settled(state: State, now: Now) -> bool:
    """Whether this epoch's route is in force, its settling time over."""
    if state.attempt is None or state.applied_at is None:
        return False
    return now.wall >= state.applied_at + timedelta(seconds=state.attempt.plan.settle_seconds)


def absorb(snapshot: Snapshot, now: Now) -> Attempt | None:
    """Return the attempt with the reading consumed, and judged again what it changed.

    A window counts only if both arms were read, the route is the intended one and has settled; a
    cohort counts whenever it matured. What is not consumed now is read again the next time, because
    counters only grow and the cursor moves together with the counts.
    """
    state, attempt = snapshot.state, snapshot.state.attempt
    if attempt is None:
        return None
    evidence = _mature(attempt.evidence, attempt, snapshot.reading)
    if snapshot.applied and settled(state, now):
        evidence = _consume(evidence, attempt, state, snapshot.reading, now)
    judged = {found.metric: found for found in attempt.assessments}
    for metric in attempt.plan.metrics:
        series = evidence.series.get(metric.name, ())
        if series != attempt.evidence.series.get(metric.name, ()):
            judged[metric.name] = assess(metric, series, attempt.plan.tolerance, state.epoch)
    ordered = tuple(judged[m.name] for m in attempt.plan.metrics if m.name in judged)
    return replace(attempt, evidence=evidence, assessments=ordered)


def close_span(evidence: Evidence, now: Now) -> Evidence:
    """End the current epoch: a weight change begins, counters get a new baseline after it."""
    spans = evidence.spans
    if spans and spans[-1].until is None:
        spans = (*spans[:-1], replace(spans[-1], until=now.clock))
    return replace(evidence, spans=spans, baseline={})


def _mature(evidence: Evidence, attempt: Attempt, reading: Reading) -> Evidence:
    if reading.matured_until is None or (
        evidence.matured_until is not None and reading.matured_until <= evidence.matured_until
    ):
        return evidence
    series = dict(evidence.series)
    for metric in (m for m in attempt.plan.metrics if m.delayed):
        for cohort in reading.cohorts:
            piece = Segment(
                0, cohort.epoch, cohort.weight, cohort.requests, cohort.labelled, cohort.losses
            )
            series[metric.name] = extend(series.get(metric.name, ()), piece)
    return replace(evidence, series=series, matured_until=reading.matured_until)


def _consume(
    evidence: Evidence, attempt: Attempt, state: State, reading: Reading, now: Now
) -> Evidence:
    arms = tuple(revision.revision for revision in state.arms or ())
    fresh = {arm: reading.counters[arm] for arm in arms if arm in reading.counters}
    if len(fresh) < len(arms):
        absent = ", ".join(arm for arm in arms if arm not in fresh)
        return replace(evidence, problem=reading.problem or f"no counters of {absent}")
    if not evidence.baseline:
        evidence = replace(evidence, baseline=fresh, seen_at=now.wall, problem="")
        return _open_span(evidence, state, now)
    if evidence.seen_at == now.wall:
        return evidence
    began_anew = [arm for arm in arms if _reset(evidence.baseline[arm], fresh[arm])]
    if began_anew:
        lost = (now.wall - (evidence.seen_at or now.wall)).total_seconds()
        return replace(
            evidence,
            baseline=fresh,
            seen_at=now.wall,
            gap_seconds=evidence.gap_seconds + lost,
            problem=f"the counters of {', '.join(began_anew)} began anew",
        )
    series = _windows(evidence, attempt, state, arms, fresh)
    return replace(evidence, series=series, baseline=fresh, seen_at=now.wall, problem="")


def _open_span(evidence: Evidence, state: State, now: Now) -> Evidence:
    if not 0 < state.weight < TOTAL:
        return evidence
    return replace(
        evidence, spans=(*evidence.spans, Span(state.epoch, state.weight, since=now.clock))
    )


def _reset(before: Counters, after: Counters) -> bool:
    return (
        after.started != before.started
        or after.requests < before.requests
        or any(after.events.get(name, 0) < count for name, count in before.events.items())
    )


def _windows(
    evidence: Evidence,
    attempt: Attempt,
    state: State,
    arms: tuple[str, ...],
    fresh: Mapping[str, Counters],
) -> dict[str, tuple[Segment, ...]]:
    stable, canary = (_Delta(evidence.baseline[arm], fresh[arm]) for arm in arms)
    requests: Pair = (stable.requests, canary.requests)
    series = dict(evidence.series)
    if not any(requests):
        return series
    bare = Segment(0, state.epoch, state.weight, requests, requests, ())
    series[REQUESTS] = extend(series.get(REQUESTS, ()), bare)
    for metric in (m for m in attempt.plan.metrics if not m.delayed):
        bad = stable.events(metric.event), canary.events(metric.event)
        piece = replace(bare, losses=((LEVELS, *bad),) if any(bad) else ())
        series[metric.name] = extend(series.get(metric.name, ()), piece)
    return series


class _Delta:
    """What one arm counted between two looks."""

    def __init__(self, before: Counters, after: Counters) -> None:
        self._before, self._after = before, after
        self.requests = after.requests - before.requests

    def events(self, name: str) -> int:
        """Bad requests; never more than requests, also when the looks were not simultaneous."""
        found = self._after.events.get(name, 0) - self._before.events.get(name, 0)
        return min(found, self.requests)
