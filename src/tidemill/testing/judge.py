"""Servers as the judge sees them: where they are, and what they have counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from tidemill.domain.rollout.model import Workload
from tidemill.domain.rollout.readings import Counters
from tidemill.domain.rollout.windows import total
from tidemill.errors import Unavailable
from tidemill.ports.rollout import Tails

__all__ = ["PlayedServers"]


@dataclass
class PlayedServers:
    """Implements `ports.rollout.Locator` and `CounterSource`, one server an arm until more come."""

    pods: dict[str, dict[str, Counters]] = field(default_factory=dict)
    """Counters by arm and server."""
    names: dict[str, str] = field(default_factory=dict)
    """What the servers of an arm call themselves; by default eight zeros and two digits."""
    silent: set[str] = field(default_factory=set)
    """Arms whose servers do not answer."""

    def start(self, arm: str, server: str = "a", started: float = 1.0) -> None:
        """Start a server, or start it anew."""
        self.pods.setdefault(arm, {})[server] = Counters(started, 0, {"error": 0, "slow": 0})

    def serve(self, arm: str, requests: int, errors: int = 0, server: str = "a") -> None:
        """Count requests on a server."""
        before = self.pods[arm][server]
        events = {**before.events, "error": before.events["error"] + errors}
        fresh = replace(before, requests=before.requests + requests, events=events)
        self.pods[arm][server] = fresh

    def locate(self, arm: str) -> Workload:
        """Return an arm's servers."""
        if not self.pods.get(arm):
            raise Unavailable(f"the Service {arm} has no ready endpoint")
        found = {server: f"{arm}:{server}" for server in self.pods[arm]}
        return Workload(len(found), len(found), arm, servers=found)

    def revisions(self, workload: Workload) -> set[str]:
        """Return what an arm's servers call themselves."""
        self._ask(workload.address)
        return {self._name(workload.address)}

    def read(
        self,
        workloads: Mapping[str, Workload],
        reported: Mapping[str, str],
        tails: Tails | None,  # noqa: ARG002 - no scores are played
        since: datetime,  # noqa: ARG002 - it is read now
    ) -> tuple[Mapping[str, Counters], list[str]]:
        """Return what was counted."""
        counters, problems = {}, []
        for name, workload in workloads.items():
            arm = workload.address
            try:
                self._ask(arm)
            except Unavailable as error:
                problems.append(error.message)
                continue
            if self._name(arm) != reported[name]:
                problems.append(f"{name}: its metrics are of {self._name(arm)}")
                continue
            counters[name] = replace(total(self.pods[arm].values()), servers=dict(self.pods[arm]))
        return counters, problems

    def _name(self, arm: str) -> str:
        return self.names.get(arm, f"{list(self.pods).index(arm):010d}")

    def _ask(self, arm: str) -> None:
        if arm in self.silent:
            raise Unavailable(f"{arm} does not answer")
