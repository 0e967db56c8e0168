"""What people order: a new revision, a pause, a command. Writes the specification, nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

from tidemill.domain.rollout.model import Action, Command, Revision, Spec
from tidemill.errors import Conflict, NotFound, Refused, UsageError
from tidemill.ports.rollout import Specs, States

__all__ = ["Orders"]

ATTEMPTS = 5
"""How often an order is written before it gives way to those who write at the same time."""


class Orders:
    """Orders about one rollout; each is one compare-and-swap, repeated when another came first."""

    def __init__(self, name: str, specs: Specs, states: States) -> None:
        self._name = name
        self._specs = specs
        self._states = states

    def start(self, registered: Revision) -> Spec:
        """Want a registered version; raises Refused when its last attempt failed."""
        state, _ = self._states.state(self._name)
        wish = self._specs.wish(self._name, registered)
        if state.closed == wish.desired.revision:
            why = f": {state.history[0].reason}" if state.history else ""
            raise Refused(
                f"the last attempt of version {registered.version} ({state.closed}) failed{why}",
                hint="try the same version again: tidemill rollout retry",
            )
        return self._write(
            lambda before: replace(wish, paused=before.paused) if before else wish, anew=True
        )

    def pause(self) -> Spec:
        """Freeze the weight; the protection goes on."""
        return self._write(lambda before: replace(self._known(before), paused=True))

    def resume(self) -> Spec:
        """Go on, whoever paused it."""
        return self._command("resume", paused=False)

    def command(self, action: Action, step: str = "", reason: str = "") -> Spec:
        """Order `action` about the revision in flight (for `retry`: the one that failed).

        Raises UsageError when glass is to be broken without a reason.
        """
        if action == "break_glass" and not reason.strip():
            raise UsageError(
                "break-glass needs a reason, which goes on the ledger",
                hint='tidemill rollout break-glass --reason "INC-7: why; who decided it"',
            )
        return self._command(action, step=step, reason=reason)

    def _command(
        self, action: Action, *, step: str = "", reason: str = "", paused: bool | None = None
    ) -> Spec:
        state, _ = self._states.state(self._name)
        subject = state.attempt.canary.revision if state.attempt else state.closed
        if not subject:
            verb = action.replace("_", "-")
            raise Refused(
                f"no rollout of {self._name} is in flight: there is nothing to {verb}",
                hint="tidemill rollout status",
            )
        order = Command(uuid.uuid4().hex, action, subject, step, reason)

        def change(before: Spec | None) -> Spec:
            spec = self._known(before)
            return replace(spec, command=order, paused=spec.paused if paused is None else paused)

        return self._write(change)

    def _known(self, before: Spec | None) -> Spec:
        if before is None and (problem := self._specs.problem(self._name)):
            raise Refused(
                f"the rollout of {self._name} cannot run: {problem}",
                hint="tidemill rollout status",
            )
        if before is None:
            raise NotFound(
                f"there is no rollout of {self._name} yet", hint="tidemill rollout start MODEL"
            )
        return before

    def _write(self, change: Callable[[Spec | None], Spec], *, anew: bool = False) -> Spec:
        for _ in range(ATTEMPTS):
            before = self._specs.spec(self._name)
            wanted = change(before)
            spec = replace(wanted, generation=(before.generation if before else 0) + 1)
            try:
                self._specs.propose(self._name, spec, anew=anew)
            except Conflict:
                continue
            return spec
        raise Conflict(
            f"the rollout of {self._name} is being changed by somebody else",
            hint="see what they ordered, then repeat: tidemill rollout status",
        )
