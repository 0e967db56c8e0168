"""Whether a rollout is in flight, for those who would rather wait for its end."""

from __future__ import annotations

from tidemill.domain.rollout.model import Revision, State

__all__ = ["in_flight"]

AT_REST = ("empty", "stable")


def in_flight(desired: Revision | None, state: State) -> str:
    """Say what a rollout is about that has not ended; empty when it is at rest.

    Also one that was ordered and has not begun. The words change with the phase and what it waits
    for, not with every request that is counted.
    """
    if state.phase not in AT_REST:
        return f"version {_subject(state)} is {state.phase.replace('_', ' ')}{_where(state)}"
    stable = state.stable.revision if state.stable else ""
    if desired is None or desired.revision in (stable, state.closed):
        return ""
    return f"version {desired.version} is wanted and has not begun"


def _subject(state: State) -> str:
    subject = state.attempt.canary if state.attempt else state.stable
    return subject.version if subject else "?"


def _where(state: State) -> str:
    """Say the step, and why it does not go on by itself."""
    attempt = state.attempt
    if attempt is None:
        return ""
    step = f" at step {attempt.plan.steps[attempt.step].name}"
    for condition in state.conditions:
        # What a gate waits for is counted; that changes from look to look.
        if condition.type == "Progressing" and condition.reason != "WaitingGate":
            return f"{step} ({condition.message})" if condition.message else step
    return step
