"""What the rollout's controller needs: a store with compare-and-swap, and hands and eyes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from tidemill.domain.rollout.model import (
    Decision,
    Now,
    Plan,
    Release,
    Revision,
    Route,
    Spec,
    State,
    Workload,
)
from tidemill.domain.rollout.readings import Counters, Reading

__all__ = [
    "Attempts",
    "CounterSource",
    "EvidenceSource",
    "Locator",
    "Releases",
    "Router",
    "Specs",
    "States",
    "Tails",
    "Workloads",
]

Tails = tuple[float, float]
"""Scores at most the first count as `low`, above the second as `high`."""


class Specs(Protocol):
    """What people want; on Kubernetes the resource's `spec`."""

    def spec(self, name: str) -> Spec | None:
        """Return the specification of a rollout, or None when there is none."""
        ...

    def problem(self, name: str) -> str:
        """Say why the specification in place cannot run; empty when it can, or there is none."""
        ...

    def wish(self, name: str, registered: Revision) -> Spec:
        """Return the specification that wants a registered version, before it is proposed.

        Its revision is named as the platform names it; its generation is 0. Raises ConfigError.
        """
        ...

    def plan(self, name: str) -> Plan:
        """Return the plan that an attempt begins with which is ordered now."""
        ...

    def propose(self, name: str, spec: Spec, *, anew: bool = False) -> None:
        """Write a specification whose generation follows the one in place.

        With `anew` all that the settings say about serving it is written, too.
        Raises Conflict when another was written since.
        """
        ...


class States(Protocol):
    """What the controller knows; on Kubernetes the resource's `status`."""

    def state(self, name: str) -> tuple[State, int]:
        """Return the state and its version; the empty state at version 0 when there is none."""
        ...

    def commit(self, name: str, state: State, decision: Decision | None, expected: int) -> int:
        """Write the state and the decision that led to it, together, and return the new version.

        Raises Conflict when the version in place is not `expected`.
        """
        ...

    def decisions(self, name: str) -> list[Decision]:
        """Return the decision log, oldest first."""
        ...


class Workloads(Protocol):
    """The servers, one set per revision."""

    def ensure(self, revision: Revision) -> None:
        """Make the servers of `revision` run; they may take long to become ready."""
        ...

    def remove(self, revision: str) -> None:
        """Let the servers of a revision end; an unknown one is no error."""
        ...

    def observe(self) -> Mapping[str, Workload]:
        """Return what is seen of every revision's servers; raises Unavailable."""
        ...


class Router(Protocol):
    """The data plane's split of requests."""

    def apply(self, route: Route, addresses: Mapping[str, str]) -> None:
        """Ask for a route; addresses are by revision, and by `shadow_of` it for mirrored requests.

        Idempotent, cheap when nothing changed.

        A destination is known to the data plane before the route names it, and forgotten after; one
        without an address here keeps the address it had, so that a way back needs nobody else.
        Raises Unavailable.
        """
        ...

    def observe(self) -> Route:
        """Return the route that the data plane has in force; raises Unavailable."""
        ...


class CounterSource(Protocol):
    """What servers have counted."""

    def read(
        self,
        workloads: Mapping[str, Workload],
        reported: Mapping[str, str],
        tails: Tails | None,
        since: datetime,
    ) -> tuple[Mapping[str, Counters], list[str]]:
        """Return what the servers of each workload have counted, and what is wrong with the others.

        `reported` is what the servers of a workload call themselves, by default its key: counters
        of another revision are not theirs. A workload is read whole, and as it was at `since` or
        later, or it is absent.
        """
        ...

    def revisions(self, workload: Workload) -> set[str]:
        """Return what the servers call themselves; raises Unavailable when one cannot be read."""
        ...


class Locator(Protocol):
    """Finds servers by the name that a caller of the judge gives them."""

    def locate(self, arm: str) -> Workload:
        """Return where the servers are; raises NotFound, Refused, Unavailable."""
        ...


class Attempts(Protocol):
    """What is known of attempts that somebody else carries out."""

    def state(self, attempt: str) -> tuple[State, int] | None:
        """Return the state and its version, or None."""
        ...

    def commit(self, attempt: str, state: State, expected: int, now: datetime) -> None:
        """Write the state over version `expected`, 0 for a new attempt; raises Conflict."""
        ...

    def forget(self, attempt: str) -> None:
        """Drop an attempt; one that is not known is no error."""
        ...


class EvidenceSource(Protocol):
    """Counters of the servers, and outcomes of what they predicted."""

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:
        """Read what can be read; what cannot is absent and named in the reading's `problem`."""
        ...


class Releases(Protocol):
    """Registry and ledger, told about the end of an attempt."""

    def record(self, release: Release) -> None:
        """Make them say what the release says; the same release twice has no further effect.

        Raises RetryableError to be called again, PermanentError when it is refused.
        """
        ...
