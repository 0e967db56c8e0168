"""The rollout's state machine: one look at the world, at most one decision.

    empty → initializing → stable → preparing → progressing ⇄ paused → promoting → finalizing → stable
                                        └───────────────┴──────┴─────────┴───────────┴→ rolling_back → stable

`reconcile` is pure. The caller persists the state it returns before acting on it, and acting means
making the world equal to `intent(state)`.
"""  # noqa: E501 - the drawing

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.commands import command
from tidemill.domain.rollout.conditions import conditions
from tidemill.domain.rollout.edits import note_edits
from tidemill.domain.rollout.gate import blockers, elapsed, exhausted, standstill
from tidemill.domain.rollout.model import Attempt, Decision, Ending, Now, Release, Snapshot, State
from tidemill.domain.rollout.moves import (
    Move,
    advance,
    begin,
    close,
    detail,
    enter,
    keep,
    late,
    pause,
    roll_back,
    since,
    unpause,
    weigh,
)
from tidemill.domain.rollout.steady import steady
from tidemill.domain.rollout.windows import absorb

__all__ = ["Result", "reconcile"]

MAX_HOLDS = 3
"""A canary whose servers are lost more often than this under traffic is a crash loop."""
IN_FLIGHT = ("preparing", "progressing", "paused", "promoting")


@dataclass(frozen=True, slots=True)
class Result:
    """The new state, the decision that led to it (if one was taken), seconds to the next look."""

    state: State
    decision: Decision | None
    requeue: float


def reconcile(snapshot: Snapshot, now: Now) -> Result:
    """Decide what to do next; the same snapshot and instants always give the same result.

    Looking twice at the same instant is looking once.
    """
    state = _take_note(snapshot, now)
    snapshot = replace(snapshot, state=state)
    move = command(snapshot, now) or _phase(snapshot, now) or note_edits(snapshot)
    if move is None:
        after, decision = state, None
    else:
        decision = _number(move, state, now)
        after = replace(move.state, seq=decision.seq)
    after = replace(after, conditions=conditions(replace(snapshot, state=after), now))
    plan = state.attempt.plan if state.attempt else snapshot.spec.plan
    return Result(after, decision, 0.0 if decision else plan.interval_seconds)


def _take_note(snapshot: Snapshot, now: Now) -> State:
    """Return the state with everything that was seen, nothing decided."""
    state = steady(snapshot.state, now)
    state = replace(state, releases=state.releases[snapshot.delivered :])
    if state.applied_at is None and snapshot.applied:
        state = replace(state, applied_at=now.wall)
    state = replace(state, astray_since=_astray_since(snapshot, state, now))
    attempt = absorb(replace(snapshot, state=state), now)
    return _enter_step(replace(state, attempt=attempt), now)


def _astray_since(snapshot: Snapshot, state: State, now: Now) -> datetime | None:
    """Return since when our route is no longer in force; who cannot be asked changes nothing."""
    if snapshot.route is None:
        return state.astray_since
    if state.attempt is None or state.applied_at is None or snapshot.applied:
        return None
    return state.astray_since or now.wall


def _enter_step(state: State, now: Now) -> State:
    """Start the step's clock once its weight is in force."""
    attempt = state.attempt
    if state.phase != "progressing" or attempt is None or state.applied_at is None:
        return state
    if attempt.entered_at is not None:
        return state
    return replace(state, attempt=replace(attempt, entered_at=now.clock, entered_wall=now.wall))


def _number(move: Move, before: State, now: Now) -> Decision:
    after = move.state
    attempt = before.attempt or after.attempt
    subject = attempt.canary if attempt else after.stable
    return Decision(
        seq=before.seq + 1,
        at=now.wall,
        clock=now.clock,
        attempt=attempt.number if attempt else 0,
        action=move.action,
        reason=move.reason,
        phase=after.phase,
        revision=subject.revision if subject else "",
        weight=after.weight,
        epoch=after.epoch,
        evidence=attempt.assessments if attempt else (),
        mirror=after.mirror,
        paired=attempt.paired if attempt else (),
    )


def _phase(snapshot: Snapshot, now: Now) -> Move | None:
    handlers = {
        "empty": _initialize,
        "initializing": _initializing,
        "stable": _stable,
        "preparing": _preparing,
        "progressing": _progressing,
        "paused": _paused,
        "promoting": _promoting,
        "finalizing": _finalizing,
        "rolling_back": _rolling_back,
    }
    if snapshot.state.phase in IN_FLIGHT:
        return (
            _harm(snapshot, now)
            or _replaced(snapshot, now)
            or _astray(snapshot, now)
            or handlers[snapshot.state.phase](snapshot, now)
        )
    return handlers[snapshot.state.phase](snapshot, now)


def _harm(snapshot: Snapshot, now: Now) -> Move | None:
    attempt = snapshot.attempt
    found = next((a for a in attempt.verdicts if a.verdict == "harm"), None)
    if found is None:
        return None
    reason = f"harm in {found.metric}: {found.reason}"
    if attempt.plan.policy.on_harm == "freeze":
        frozen = attempt.override or attempt.pause in ("harm", "user", "no way back")
        return None if frozen else pause(snapshot, now, "harm", reason)
    return roll_back(snapshot, now, reason)


def _replaced(snapshot: Snapshot, now: Now) -> Move | None:
    desired = snapshot.spec.desired
    if desired.revision == snapshot.attempt.canary.revision:
        return None
    if desired.revision == snapshot.stable.revision:
        return roll_back(snapshot, now, "the stable revision is wanted again")
    if snapshot.attempt.plan.policy.on_new_revision == "queue":
        return None
    return roll_back(snapshot, now, f"superseded by {desired.revision}")


def _astray(snapshot: Snapshot, now: Now) -> Move | None:
    """Go back when the route that was in force stays lost: nobody knows who is asked."""
    since, attempt = snapshot.state.astray_since, snapshot.attempt
    deadline = timedelta(seconds=attempt.plan.progress_deadline_seconds)
    if since is None or now.wall < since + deadline:
        return None
    found = (snapshot.route and snapshot.route.problem) or "another one is"
    return roll_back(snapshot, now, f"the route is no longer in force: {found}")


def _initialize(snapshot: Snapshot, now: Now) -> Move | None:
    desired = snapshot.spec.desired
    state = replace(snapshot.state, stable=desired)
    return Move(enter(state, now, "initializing"), "initialize", "there is no stable revision")


def _initializing(snapshot: Snapshot, now: Now) -> Move | None:
    state, desired = snapshot.state, snapshot.spec.desired
    if desired.revision != snapshot.stable.revision:
        return _initialize(snapshot, now)
    if not snapshot.ready(snapshot.stable, TOTAL):
        return None
    reason = "first deployment"
    release = Release("promoted", desired, desired, f"{desired.model}-0", reason)
    served = replace(state, releases=(*state.releases, release))
    return Move(weigh(served, now, "stable", 0), "deploy", reason)


def _stable(snapshot: Snapshot, now: Now) -> Move | None:
    state, desired = snapshot.state, snapshot.spec.desired
    if desired.revision in (snapshot.stable.revision, state.closed) or snapshot.spec.paused:
        return None
    return begin(snapshot, now, "a new revision is wanted")


def _preparing(snapshot: Snapshot, now: Now) -> Move | None:
    state, attempt = snapshot.state, snapshot.attempt
    step = attempt.plan.steps[attempt.step]
    seen = (snapshot.workloads or {}).get(attempt.canary.revision)
    if seen and seen.refused:
        return roll_back(snapshot, now, f"the canary's server refuses to start: {seen.detail}")
    if snapshot.reading.rehearsal:
        reason = f"the canary failed its rehearsal: {snapshot.reading.rehearsal}"
        return roll_back(snapshot, now, reason)
    known = attempt.canary.revision in snapshot.reading.counters
    rehearsed = snapshot.reading.rehearsal is not None
    ready = snapshot.ready(attempt.canary, _first(attempt))
    if not (snapshot.applied and known and rehearsed and ready):
        if late(state, now, attempt):
            return roll_back(snapshot, now, f"{_unprepared(snapshot)} before the deadline")
        return None
    if snapshot.spec.paused or not snapshot.ready(snapshot.stable, TOTAL):
        return None
    if attempt.back:
        why = "it served before: back without steps"
        return Move(weigh(state, now, "promoting", TOTAL), "promote", why)
    if snapshot.frozen_until(now):
        return None
    begun = weigh(state, now, "progressing", step.weight, step.mirror)
    mirrored = f", {step.mirror / 100:g} % mirrored" if step.mirror else ""
    return Move(begun, "weight", f"step {step.name} begins{mirrored}")


def _first(attempt: Attempt) -> int:
    """Return the share that the canary begins with, of clients or mirrored."""
    step = attempt.plan.steps[attempt.step]
    return TOTAL if attempt.back else max(step.weight, step.mirror)


def _unprepared(snapshot: Snapshot) -> str:
    attempt = snapshot.attempt
    if not snapshot.applied:
        return "the gateway did not take up the canary"
    if not snapshot.ready(attempt.canary, _first(attempt)):
        return detail(snapshot, attempt)
    if attempt.canary.revision not in snapshot.reading.counters:
        return "the canary's server did not report its revision"
    return "the canary or stable did not answer a request of our own"


def _progressing(snapshot: Snapshot, now: Now) -> Move | None:
    state, attempt = snapshot.state, snapshot.attempt
    lost = _lost(snapshot, now)
    if lost:
        return lost
    if snapshot.spec.paused:
        return pause(snapshot, now, "user", "pause was asked for")
    if state.applied_at is None:
        if late(state, now, attempt):
            return roll_back(snapshot, now, "the gateway did not apply the route in time")
        return None
    cause = standstill(snapshot, now)
    if cause:
        kind, reason = cause
        if kind == "evidence" and attempt.plan.policy.on_missing_evidence == "rollback":
            return roll_back(snapshot, now, reason)
        return pause(snapshot, now, kind, reason)
    waiting, policy = blockers(snapshot, now), attempt.plan.policy.on_inconclusive
    if waiting and not exhausted(attempt, now):
        return None
    undecided = f"undecided after {elapsed(attempt, now):.0f} s: {'; '.join(waiting)}"
    if waiting and policy == "rollback":
        return roll_back(snapshot, now, undecided)
    if waiting and policy == "pause":
        return pause(snapshot, now, "inconclusive", undecided)
    if snapshot.frozen_until(now):
        return None
    return advance(snapshot, now, undecided if waiting else "gate passed", proven=not waiting)


def _paused(snapshot: Snapshot, now: Now) -> Move | None:
    attempt = snapshot.attempt
    lost = _lost(snapshot, now)
    if lost:
        return lost
    cause = standstill(snapshot, now)
    lifted = {
        "user": not snapshot.spec.paused,
        "evidence": cause is None,
        "unhealthy": cause is None,
        "no way back": snapshot.ready(snapshot.stable, TOTAL),
    }
    if not lifted.get(attempt.pause, False):
        return None
    state = unpause(snapshot.state, attempt, now)
    return Move(state, "resume", f"the cause of the pause is gone: {attempt.pause}")


def _promoting(snapshot: Snapshot, now: Now) -> Move | None:
    state, attempt = snapshot.state, snapshot.attempt
    if snapshot.workloads is not None and not snapshot.ready(attempt.canary, TOTAL):
        return roll_back(snapshot, now, detail(snapshot, attempt))
    if not snapshot.applied:
        if late(state, now, attempt):
            return roll_back(snapshot, now, "the gateway did not apply the route in time")
        return None
    if attempt.harmed and not attempt.override:
        return None  # there is no way back yet, and what does harm has not won
    reason = _won(attempt)
    release = Release(
        *("promoted", attempt.canary, attempt.canary, attempt.id, reason),
        evidence=attempt.assessments,
        paired=attempt.paired,
    )
    swapped = replace(
        state,
        stable=attempt.canary,
        previous=state.stable,
        releases=(*state.releases, release),
    )
    return Move(enter(swapped, now, "finalizing"), "finalize", reason)


def _won(attempt: Attempt) -> str:
    """Say by what right the canary takes over."""
    if attempt.back:
        return "back to a revision that served before"
    if attempt.override:
        return "promoted by a person"
    if len(attempt.unproven) == len(attempt.plan.steps):
        return "no gate passed: its steps were skipped or undecided"
    if attempt.unproven:
        return f"the gates passed, but not of {', '.join(attempt.unproven)}"
    return "all gates passed"


def _finalizing(snapshot: Snapshot, now: Now) -> Move | None:
    state, attempt = snapshot.state, snapshot.attempt
    assert state.previous
    if snapshot.refused:
        return roll_back(snapshot, now, f"the registry refused it: {snapshot.refused}")
    harm = _harm(snapshot, now)
    if harm and harm.state.phase == "rolling_back":
        return harm
    if snapshot.spec.desired.revision == state.previous.revision:
        return roll_back(snapshot, now, "the previous revision is wanted again")
    if attempt.harmed and not attempt.override:
        return None  # the way back is kept until it can be gone, or a person decides
    delay = timedelta(seconds=attempt.plan.scale_down_seconds)
    if state.releases or not snapshot.applied or now.wall < since(state) + delay:
        return None
    done = close(replace(keep(state), weight=0), now, "promoted", "")
    return Move(enter(done, now, "stable"), "complete", "the way back was kept long enough")


def _rolling_back(snapshot: Snapshot, now: Now) -> Move | None:
    state, attempt = snapshot.state, snapshot.attempt
    drain = timedelta(seconds=attempt.plan.settle_seconds)
    if not snapshot.applied or state.applied_at is None or now.wall < state.applied_at + drain:
        return None
    outcome: Ending = "superseded" if attempt.failure.startswith("superseded") else "rolled_back"
    done = close(state, now, outcome, attempt.canary.revision)
    return Move(enter(done, now, "stable"), "complete", f"{outcome}: {attempt.failure}")


def _lost(snapshot: Snapshot, now: Now) -> Move | None:
    """Take traffic off a canary whose servers are gone; give it up if that goes on."""
    state, attempt = snapshot.state, snapshot.attempt
    if snapshot.workloads is None or snapshot.ready(attempt.canary, state.load):
        return None
    reason = detail(snapshot, attempt)
    if attempt.holds >= MAX_HOLDS:
        return roll_back(snapshot, now, f"{reason}, the {attempt.holds + 1}th time")
    held = replace(attempt, holds=attempt.holds + 1, pause="", paused_since=None)
    weighed = weigh(replace(state, attempt=held), now, "preparing", 0)
    return Move(weighed, "hold", reason)
