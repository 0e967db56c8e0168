"""A rollout as those see it who would rather wait for its end."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.domain.rollout.model import Revision, State

__all__ = ["Rollout"]

AT_REST = ("empty", "stable")


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is wanted and what is known of one rollout."""

    name: str
    desired: Revision | None
    state: State
    paused: bool = False
    """Whether people hold it: nothing begins then."""

    @property
    def serving(self) -> str:
        """What the servers of all traffic call themselves; empty while it is not at rest."""
        stable = self.state.stable
        return stable.reported if stable and not self.in_flight else ""

    def replaced(self, revision: str) -> str:
        """Return what serves all traffic where `revision` did before; empty if that is not so.

        Other places may serve the model, too: what merely serves here proves nothing of them.
        """
        return self.serving if revision in self.state.reported else ""

    @property
    def in_flight(self) -> str:
        """What it is about that has not ended; empty when it is at rest.

        Also a version that was ordered and has not begun. The words change with the phase and what
        it waits for, not with every request that is counted.
        """
        state, desired = self.state, self.desired
        if state.phase not in AT_REST:
            return f"version {_subject(state)} is {state.phase.replace('_', ' ')}{_where(state)}"
        stable = state.stable.revision if state.stable else ""
        if desired is None or desired.revision in (stable, state.closed):
            return ""
        why = " (user)" if self.paused else ""
        return f"version {desired.version} is wanted and has not begun{why}"


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
