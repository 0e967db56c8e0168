"""Commands of people: each is about one revision, is handled once, and may come too late."""

from __future__ import annotations

from dataclasses import replace

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.model import Attempt, Now, Release, Snapshot
from tidemill.domain.rollout.moves import Move, advance, begin, roll_back, unpause, weigh

__all__ = ["command"]


def command(snapshot: Snapshot, now: Now) -> Move | None:
    """Carry out the specification's command, or record why not; None when there is none.

    An abort waits, unhandled, while stable is known to be down.
    """
    wanted, state = snapshot.spec.command, snapshot.state
    if wanted is None or wanted.id == state.handled:
        return None
    handled = replace(snapshot, state=replace(state, handled=wanted.id))
    if wanted.action == "retry":
        return _retry(handled, now)
    attempt = state.attempt
    if attempt is None or attempt.canary.revision != wanted.revision:
        return _ignore(handled, f"no rollout of {wanted.revision} is in flight")
    if wanted.action == "abort":
        if state.phase == "rolling_back":
            return _ignore(handled, "it is being rolled back already")
        move = roll_back(handled, now, "abort was asked for")
        return move if move and move.state.phase == "rolling_back" else None
    carry_out = {
        "approve": _approve,
        "skip": _skip,
        "resume": _resume,
        "promote": _override,
        "break_glass": _break_glass,
    }[wanted.action]
    return carry_out(handled, attempt, now)


def _ignore(snapshot: Snapshot, why: str) -> Move:
    assert snapshot.spec.command
    return Move(snapshot.state, "ignore", f"{snapshot.spec.command.action}: {why}")


def _retry(snapshot: Snapshot, now: Now) -> Move:
    command, state = snapshot.spec.command, snapshot.state
    assert command
    if state.phase != "stable" or command.revision != state.closed:
        return _ignore(snapshot, f"{command.revision} is not the revision that failed last")
    if snapshot.spec.desired.revision != command.revision:
        return _ignore(snapshot, f"{command.revision} is no longer wanted")
    return begin(replace(snapshot, state=replace(state, closed="")), now, "retry was asked for")


def _approve(snapshot: Snapshot, attempt: Attempt, _now: Now) -> Move:
    if why := _elsewhere(snapshot, attempt):
        return _ignore(snapshot, why)
    approved = replace(snapshot.state, attempt=replace(attempt, approved=True))
    return Move(approved, "approve", f"step {attempt.plan.steps[attempt.step].name} was approved")


def _skip(snapshot: Snapshot, attempt: Attempt, now: Now) -> Move:
    """Leave the present step without what it waits for; the next one has gates of its own."""
    steps, following = attempt.plan.steps, attempt.step + 1
    weight = steps[following].weight if following < len(steps) else TOTAL
    why = (
        _elsewhere(snapshot, attempt)
        or _held(snapshot, attempt)
        or _kept_back(snapshot, attempt, now, weight)
    )
    if why:
        return _ignore(snapshot, why)
    going = replace(attempt, pause="", paused_since=None)
    skipped = replace(snapshot, state=replace(snapshot.state, attempt=going))
    return advance(skipped, now, "skip was asked for", proven=False)


def _elsewhere(snapshot: Snapshot, attempt: Attempt) -> str:
    """Say that the rollout is not at the step that the command is about."""
    command, step = snapshot.spec.command, attempt.plan.steps[attempt.step]
    assert command
    if command.step in ("", step.name):
        return ""
    return f"the rollout is at step {step.name}, not {command.step}"


def _held(snapshot: Snapshot, attempt: Attempt) -> str:
    """Say what keeps the rollout paused."""
    if snapshot.spec.paused:
        return "the specification says paused"
    if attempt.pause == "harm" or attempt.harmed:
        return "harm was found: abort it, or promote it on your own authority"
    return ""


def _kept_back(snapshot: Snapshot, attempt: Attempt, now: Now, weight: int) -> str:
    """Say what keeps even a person from giving the canary more."""
    if snapshot.state.phase not in ("progressing", "paused"):
        return f"it is {snapshot.state.phase}"
    if not snapshot.ready(attempt.canary, weight):
        share = "all traffic" if weight == TOTAL else f"{weight / 100:g} % of the traffic"
        return f"the canary's servers are not ready for {share}"
    if until := snapshot.frozen_until(now):
        return f"frozen until {until:%Y-%m-%d %H:%M} UTC: break the glass first"
    return ""


def _resume(snapshot: Snapshot, attempt: Attempt, now: Now) -> Move:
    if snapshot.state.phase != "paused":
        return _ignore(snapshot, "it is not paused")
    if why := _held(snapshot, attempt):
        return _ignore(snapshot, why)
    return Move(unpause(snapshot.state, attempt, now), "resume", "resume was asked for")


def _override(snapshot: Snapshot, attempt: Attempt, now: Now) -> Move:
    if snapshot.state.phase == "finalizing" and attempt.harmed:
        kept = replace(snapshot.state, attempt=replace(attempt, override=True))
        return Move(kept, "promote", "promote was asked for, in spite of harm")
    if why := _kept_back(snapshot, attempt, now, TOTAL):
        return _ignore(snapshot, why)
    state = replace(
        snapshot.state, attempt=replace(attempt, override=True, pause="", paused_since=None)
    )
    return Move(weigh(state, now, "promoting", TOTAL), "promote", "promote was asked for")


def _break_glass(snapshot: Snapshot, attempt: Attempt, now: Now) -> Move:
    """Let the attempt go on inside the windows of now; who does it puts a reason on record."""
    order, until = snapshot.spec.command, snapshot.frozen_until(now)
    assert order
    if not order.reason:
        return _ignore(snapshot, "it needs a reason")
    if snapshot.state.phase not in ("preparing", "progressing", "paused"):
        return _ignore(snapshot, f"it is {snapshot.state.phase}")
    if until is None:
        return _ignore(snapshot, "nothing is frozen now")
    release = Release(
        *("unfrozen", snapshot.stable, attempt.canary, attempt.id, order.reason),
        order=order.id,
    )
    state = replace(
        snapshot.state,
        attempt=replace(attempt, thawed_until=until),
        releases=(*snapshot.state.releases, release),
    )
    return Move(state, "break_glass", f"until {until:%Y-%m-%d %H:%M} UTC: {order.reason}")
