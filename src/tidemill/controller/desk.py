"""One rollout as people order and follow it, wherever its specification and state are kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tidemill.controller.orders import Orders
from tidemill.domain.rollout.model import Decision, Plan, Revision, Spec, State
from tidemill.errors import Refused, Timeout
from tidemill.ports.rollout import Specs, States

__all__ = ["Desk", "Kept"]


class Kept(Specs, States, Protocol):
    """Where rollouts are kept: the store of one machine, or the resources of a cluster."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The verbs of one rollout."""

    name: str
    kept: Kept
    fetch: Callable[[str], Revision]
    """Brings the version that a reference means from the registry, verified."""
    nobody: str
    """What to do when no controller takes an order up."""
    look_seconds: float
    """Between two looks while it is followed."""

    @property
    def orders(self) -> Orders:
        """Orders about the rollout."""
        return Orders(self.name, self.kept, self.kept)

    def start(self, reference: str) -> Spec:
        """Want the version that `reference` means; raises what registry and platform refuse."""
        return self.orders.start(self.fetch(reference))

    def spec(self) -> Spec | None:
        """Return what is wanted; raises Refused when that cannot run."""
        if problem := self.kept.problem(self.name):
            raise Refused(
                f"the rollout of {self.name} cannot run: {problem}",
                hint="tidemill rollout status shows what is in flight",
            )
        return self.kept.spec(self.name)

    def plan(self) -> Plan:
        """Return how a version takes over that is started now."""
        return self.kept.plan(self.name)

    def state(self) -> State:
        """Return what the controller knows."""
        return self.kept.state(self.name)[0]

    def decisions(self) -> list[Decision]:
        """Return the decision log, oldest first."""
        return self.kept.decisions(self.name)

    def follow(self, revision: str, seconds: float, tell: Callable[[Decision], None]) -> None:
        """Tell each decision as it is taken until `revision` is promoted.

        Raises Refused when it is given up, Timeout when that takes longer than `seconds`.
        """
        deadline, shown = time.monotonic() + seconds, 0
        while True:
            state = self.state()
            for decision in self.decisions():
                if decision.seq > shown:
                    shown = decision.seq
                    tell(decision)
            if state.serving and state.serving.revision == revision:
                return
            if state.phase == "stable" and state.closed == revision:
                raise _given_up(state, revision)
            if time.monotonic() >= deadline:
                raise self._undecided(state, revision, seconds)
            time.sleep(self.look_seconds)

    def _undecided(self, state: State, revision: str, seconds: float) -> Timeout:
        waiting = next((c.message for c in state.conditions if c.type == "Progressing"), "")
        what = f"{revision} is undecided after {seconds:g} s, the rollout is {state.phase}"
        if state.phase == "empty":
            return Timeout(what, hint=self.nobody)
        hint = "go on: tidemill rollout watch; what it waits for: tidemill rollout status"
        return Timeout(f"{what}: {waiting}" if waiting else what, hint=hint)


def _given_up(state: State, revision: str) -> Refused:
    last = state.history[0]
    hint = "tidemill rollout status shows the evidence; once more: tidemill rollout retry"
    outcome = last.outcome.replace("_", " ")
    return Refused(f"{revision} was {outcome}: {last.reason}", hint=hint)
