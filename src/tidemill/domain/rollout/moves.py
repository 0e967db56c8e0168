"""Moves of the rollout's state machine: what each decision does to the state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.model import (
    Attempt,
    Decided,
    Ending,
    Now,
    Outcome,
    Phase,
    Release,
    Snapshot,
    State,
)
from tidemill.domain.rollout.windows import close_span

__all__ = [
    "Move",
    "advance",
    "begin",
    "close",
    "detail",
    "enter",
    "keep",
    "late",
    "pause",
    "roll_back",
    "since",
    "unpause",
    "weigh",
]

HISTORY = 10


@dataclass(frozen=True, slots=True)
class Move:
    """A decision before it is numbered."""

    state: State
    action: Decided
    reason: str


def enter(state: State, now: Now, phase: Phase, *, attempt: Attempt | None = None) -> State:
    """Enter a phase; its deadline counts from now."""
    return replace(state, phase=phase, since=now.wall, attempt=attempt or state.attempt)


def weigh(state: State, now: Now, phase: Phase, weight: int, mirror: int = 0) -> State:
    """Change what the canary gets: a new epoch, no evidence until it has settled."""
    attempt = state.attempt
    if attempt is not None:
        evidence = replace(close_span(attempt.evidence, now), gap_seconds=0.0)
        attempt = replace(
            attempt, evidence=evidence, entered_at=None, entered_wall=None, paused_seconds=0.0
        )
    epoch = state.epoch + 1
    weighed = replace(state, weight=weight, mirror=mirror, epoch=epoch, applied_at=None)
    return enter(weighed, now, phase, attempt=attempt)


def begin(snapshot: Snapshot, now: Now, reason: str) -> Move:
    """Begin an attempt for the desired revision, with the plan as it is now."""
    state, spec = snapshot.state, snapshot.spec
    attempt = Attempt(
        number=state.attempts + 1,
        canary=spec.desired,
        plan=spec.plan,
        generation=spec.generation,
        started_at=now.wall,
        looked=now,
        back=spec.desired.revision in state.served[: spec.plan.rollback_window],
    )
    begun = replace(state, attempts=attempt.number, attempt=attempt, closed="")
    return Move(weigh(begun, now, "preparing", 0), "begin", reason)


def advance(snapshot: Snapshot, now: Now, reason: str, *, proven: bool) -> Move:
    """Go to the next step, or to all traffic after the last one; `proven`: the gate passed."""
    attempt, left = snapshot.attempt, snapshot.attempt.plan.steps[snapshot.attempt.step].name
    following, why = attempt.step + 1, f"step {left}: {reason}"
    if not proven:
        attempt = replace(attempt, unproven=(*attempt.unproven, left))
    if following == len(attempt.plan.steps):
        state = replace(snapshot.state, attempt=attempt)
        return Move(weigh(state, now, "promoting", TOTAL), "promote", why)
    state = replace(snapshot.state, attempt=replace(attempt, step=following, approved=False))
    step = attempt.plan.steps[following]
    return Move(weigh(state, now, "progressing", step.weight, step.mirror), "weight", why)


def pause(snapshot: Snapshot, now: Now, kind: str, reason: str) -> Move:
    """Freeze the weight and the step's clock; the harm tests go on."""
    attempt = snapshot.attempt
    frozen = replace(attempt, pause=kind, paused_since=attempt.paused_since or now.clock)
    return Move(enter(snapshot.state, now, "paused", attempt=frozen), "pause", reason)


def unpause(state: State, attempt: Attempt, now: Now) -> State:
    """Go on: the step's clock stood still; after an undecided gate it starts again."""
    paused = (now.clock - (attempt.paused_since or now.clock)).total_seconds()
    going = replace(
        attempt, pause="", paused_since=None, paused_seconds=attempt.paused_seconds + paused
    )
    if attempt.pause == "inconclusive":
        going = replace(going, entered_at=now.clock, entered_wall=now.wall, paused_seconds=0.0)
    return enter(state, now, "progressing", attempt=going)


def roll_back(snapshot: Snapshot, now: Now, reason: str) -> Move | None:
    """Send everything back to stable; only a stable known to be down can keep it from that."""
    state, attempt = snapshot.state, snapshot.attempt
    finalizing = state.phase == "finalizing"
    target = state.previous if finalizing else state.stable
    assert target
    if state.weight and snapshot.workloads is not None and not snapshot.ready(target, 1):
        if attempt.pause == "no way back" or state.phase not in ("progressing", "paused"):
            return None
        return pause(snapshot, now, "no way back", f"{reason}; but stable has no ready server")
    release = Release(
        *("rolled_back", target, attempt.canary, attempt.id, reason),
        evidence=attempt.assessments,
        paired=attempt.paired,
    )
    failed = replace(
        state,
        stable=target,
        previous=None,
        attempt=replace(attempt, failure=reason, pause="", paused_since=None),
        releases=(*state.releases, release),
    )
    return Move(weigh(failed, now, "rolling_back", 0), "rollback", reason)


def close(state: State, now: Now, outcome: Ending, closed: str) -> State:
    """End the attempt; `closed` is the revision that is not to be tried again by itself."""
    attempt = state.attempt
    assert attempt
    entry = Outcome(attempt.number, attempt.canary.revision, outcome, attempt.failure, now.wall)
    history = (entry, *state.history)[:HISTORY]
    # What went wrong once more is no longer a way back without steps.
    served = tuple(r for r in state.served if outcome == "promoted" or r != attempt.canary.revision)
    return replace(state, attempt=None, history=history, closed=closed, served=served)


def keep(state: State) -> State:
    """Remember what served until now; it may be gone back to."""
    assert state.previous
    assert state.stable
    old, new = state.previous, state.stable
    served = _newest(state.served, old.revision, new.revision)
    reported = _newest(state.reported, old.reported, new.reported)
    return replace(state, previous=None, served=served, reported=reported)


def _newest(before: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    """Put the name of what has just been replaced in front; what serves is not among them."""
    return tuple(name for name in dict.fromkeys((old, *before)) if name != new)[:HISTORY]


def late(state: State, now: Now, attempt: Attempt) -> bool:
    """Whether the phase has outlived the progress deadline."""
    deadline = timedelta(seconds=attempt.plan.progress_deadline_seconds)
    return now.wall >= since(state) + deadline


def since(state: State) -> datetime:
    """Return the wall clock when the phase began."""
    assert state.since
    return state.since


def detail(snapshot: Snapshot, attempt: Attempt) -> str:
    """Say what is wrong with the canary's servers."""
    seen = (snapshot.workloads or {}).get(attempt.canary.revision)
    because = f" ({seen.detail})" if seen and seen.detail else ""
    return f"the canary's servers are not ready{because}"
