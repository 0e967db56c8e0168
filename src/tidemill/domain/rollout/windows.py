"""From what was read to what an attempt remembers: each window once, under the weight it ran in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tidemill.domain.evidence import LEVELS, TOTAL, Pair, Segment, assess, extend
from tidemill.domain.paired import assess_pairs
from tidemill.domain.rollout.model import Attempt, Now, Snapshot, State
from tidemill.domain.rollout.pairs import Pairing, add_pairs
from tidemill.domain.rollout.readings import Counters, Evidence, Reading, Span

__all__ = ["REQUESTS", "absorb", "close_span", "settled", "total", "unread"]

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
    elif snapshot.route is not None and state.applied_at is not None and not snapshot.applied:
        evidence = _led_astray(evidence, now)
    judged = {found.metric: found for found in attempt.assessments}
    for metric in attempt.plan.metrics:
        series = evidence.series.get(metric.name, ())
        if series != attempt.evidence.series.get(metric.name, ()):
            judged[metric.name] = assess(metric, series, attempt.plan.tolerance, state.epoch)
    ordered = tuple(judged[m.name] for m in attempt.plan.metrics if m.name in judged)
    paired = attempt.paired
    if evidence.pairing.tallies != attempt.evidence.pairing.tallies:
        tallies, tolerance = evidence.pairing.tallies, attempt.plan.tolerance
        paired = tuple(
            assess_pairs(m, tallies.get(m.name, (0, 0)), tolerance) for m in attempt.plan.paired
        )
    return replace(attempt, evidence=evidence, assessments=ordered, paired=paired)


def unread(evidence: Evidence, now: Now) -> float:
    """Return the seconds since the last complete window, but for what no look saw pass."""
    if evidence.seen_at is None:
        return 0.0
    return (now.wall - evidence.seen_at).total_seconds() - evidence.away_seconds


def close_span(evidence: Evidence, now: Now) -> Evidence:
    """End the current epoch: a weight change begins, counters get a new baseline after it."""
    spans = evidence.spans
    if spans and spans[-1].until is None:
        spans = (*spans[:-1], replace(spans[-1], until=now.clock))
    return replace(evidence, spans=spans, baseline={}, pairing=_forgotten(evidence))


def _led_astray(evidence: Evidence, now: Now) -> Evidence:
    """Drop what was counted since the last look: somebody else's route split it.

    Windows begin anew once ours is seen again.
    """
    if not evidence.baseline:
        return evidence
    return replace(
        close_span(evidence, now),
        gap_seconds=evidence.gap_seconds + unread(evidence, now),
        problem="the route in force was not the intended one",
    )


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
    if state.mirror and reading.pairs is None:
        return replace(evidence, problem=reading.problem or "no pairs were read")
    if not evidence.baseline:
        pairing = _paired(evidence, state, reading)
        begun = _seen(evidence, fresh, pairing, now)
        return _open_span(begun, state, now)
    if evidence.seen_at == now.wall:
        return evidence
    since = evidence.seen_at or now.wall
    gains = {arm: _gain(evidence.baseline[arm], fresh[arm], since) for arm in arms}
    began_anew = [arm for arm, gain in gains.items() if gain is None]
    if began_anew:
        pairing = _paired(replace(evidence, pairing=_forgotten(evidence)), state, reading)
        return replace(
            _seen(evidence, fresh, pairing, now),
            gap_seconds=evidence.gap_seconds + unread(evidence, now),
            problem=f"the counters of {', '.join(began_anew)} began anew",
        )
    stable, canary = (gain for gain in gains.values() if gain is not None)
    series = _windows(evidence, attempt, state, stable, canary)
    pairing = _paired(evidence, state, reading)
    return replace(_seen(evidence, fresh, pairing, now), series=series)


def _seen(
    evidence: Evidence, baseline: Mapping[str, Counters], pairing: Pairing, now: Now
) -> Evidence:
    """Return the evidence with a complete window that ends now."""
    return replace(
        evidence,
        baseline=baseline,
        pairing=pairing,
        seen_at=now.wall,
        away_seconds=0.0,
        problem="",
    )


def _paired(evidence: Evidence, state: State, reading: Reading) -> Pairing:
    if not state.mirror or reading.pairs is None:
        return evidence.pairing
    return add_pairs(evidence.pairing, reading.pairs, state.mirror / TOTAL)


def _forgotten(evidence: Evidence) -> Pairing:
    """Return the pairs without their cursor: what is read now is not compared."""
    return replace(evidence.pairing, cursor={})


def _open_span(evidence: Evidence, state: State, now: Now) -> Evidence:
    if not 0 < state.weight < TOTAL:
        return evidence
    return replace(
        evidence, spans=(*evidence.spans, Span(state.epoch, state.weight, since=now.clock))
    )


def _gain(before: Counters, after: Counters, since: datetime) -> Counters | None:
    """Return what was counted between two looks; None when it cannot be known.

    Of several servers one that is gone counts up to the look before, and one that started after
    that look counts whole. One that was running then but not read may have counted under another
    weight.
    """
    if not (before.servers or after.servers):
        return _grown(before, after)
    gains = []
    for name, now in after.servers.items():
        gain = _grown(before.servers.get(name), now)
        if gain is None and now.started >= since.timestamp():
            gain = now
        if gain is None:
            return None
        gains.append(gain)
    return total(gains)


def _grown(before: Counters | None, after: Counters) -> Counters | None:
    """Return what one server counted; None when it is another process, or its counters fell."""
    if before is None or after.started != before.started:
        return None
    names = before.events.keys() | after.events.keys()
    events = {name: after.events.get(name, 0) - before.events.get(name, 0) for name in names}
    requests = after.requests - before.requests
    if min(requests, *events.values(), 0) < 0:
        return None
    return Counters(after.started, requests, events)


def total(parts: Iterable[Counters]) -> Counters:
    """Add up what several servers counted; it started when the first of them did."""
    parts = list(parts)
    events: Counter[str] = Counter()
    for part in parts:
        events.update(part.events)
    started = min((part.started for part in parts), default=0.0)
    return Counters(started, sum(part.requests for part in parts), dict(events))


def _windows(
    evidence: Evidence,
    attempt: Attempt,
    state: State,
    stable: Counters,
    canary: Counters,
) -> dict[str, tuple[Segment, ...]]:
    """Return the series with this window; in a shadow step the canary has no requests."""
    requests: Pair = (stable.requests, canary.requests)
    series = dict(evidence.series)
    if state.mirror or not any(requests):
        return series
    bare = Segment(0, state.epoch, state.weight, requests, requests, ())
    series[REQUESTS] = extend(series.get(REQUESTS, ()), bare)
    for metric in (m for m in attempt.plan.metrics if not m.delayed):
        bad = _events(stable, metric.event), _events(canary, metric.event)
        piece = replace(bare, losses=((LEVELS, *bad),) if any(bad) else ())
        series[metric.name] = extend(series.get(metric.name, ()), piece)
    return series


def _events(gain: Counters, name: str) -> int:
    """Bad requests; never more than requests, also when the looks were not simultaneous."""
    return min(gain.events.get(name, 0), gain.requests)
