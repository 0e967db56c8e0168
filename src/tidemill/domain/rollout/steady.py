"""Time as looks saw it pass: a clock that is set anew ends no wait.

Waits are kept as the instants when they began. A look that comes long after the one before, or
before it, tells of a clock that was set or of a controller that was away: those instants move
along, so that the time nobody saw counts for no wait.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tidemill.domain.rollout.model import Attempt, Now, State
from tidemill.domain.rollout.readings import Evidence

__all__ = ["SLACK_SECONDS", "steady"]

SLACK_SECONDS = 60.0
"""A look may be late by so much and still count whole: after an error it is put off."""
NOTHING = timedelta(0)


def steady(state: State, now: Now) -> State:
    """Return the state with its waits moved by what nobody saw pass since the last look.

    A look that comes later than the plan's interval and `SLACK_SECONDS` counts as one that came in
    time: an interval of the wall's clock; of the project's clock, which a replay moves faster, the
    share that this is. A clock never goes back: turned back, it stood still.
    """
    attempt = state.attempt
    if attempt is None:
        return state
    if attempt.looked is None:
        return replace(state, attempt=replace(attempt, looked=now))
    wall, clock = _unseen(attempt.looked, now, attempt)
    passed = now.wall - attempt.looked.wall
    if not (wall or clock) and passed < timedelta(seconds=attempt.plan.interval_seconds):
        return state  # one look in several parts is written once
    moved = replace(
        attempt,
        looked=now,
        entered_at=_later(attempt.entered_at, clock),
        entered_wall=_later(attempt.entered_wall, wall),
        paused_since=_later(attempt.paused_since, clock),
        evidence=_away(attempt.evidence, wall, now),
    )
    return replace(
        state,
        since=_later(state.since, wall),
        applied_at=_later(state.applied_at, wall),
        astray_since=_later(state.astray_since, wall),
        attempt=moved,
    )


def _unseen(looked: Now, now: Now, attempt: Attempt) -> tuple[timedelta, timedelta]:
    """Return what of the wall's and of the project's clock nobody saw; negative: it went back."""
    wall, clock = now.wall - looked.wall, now.clock - looked.clock
    interval = timedelta(seconds=attempt.plan.interval_seconds)
    late = wall > interval + timedelta(seconds=SLACK_SECONDS)
    counted, share = (interval, interval / wall) if late else (max(wall, NOTHING), 1.0)
    return wall - counted, clock - max(clock, NOTHING) * share


def _away(evidence: Evidence, by: timedelta, now: Now) -> Evidence:
    """Return the evidence, whose last window is an instant of the wall and cannot be moved."""
    if evidence.seen_at is None:
        return evidence
    if evidence.seen_at > now.wall:
        return replace(evidence, seen_at=now.wall, away_seconds=0.0)
    return replace(evidence, away_seconds=evidence.away_seconds + by.total_seconds())


def _later(at: datetime | None, by: timedelta) -> datetime | None:
    return at + by if at is not None else None
