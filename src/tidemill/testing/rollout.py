"""Fakes of the rollout's ports: a small world whose traffic follows the route in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tidemill.domain.evidence import TOTAL
from tidemill.domain.paired import Tally
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
    shadow_of,
)
from tidemill.domain.rollout.pairs import Pairs
from tidemill.domain.rollout.readings import Counters, Reading
from tidemill.errors import Conflict, Refused, Unavailable

__all__ = ["FakeGateway", "FakeReleases", "FakeServers", "FakeTraffic", "MemoryRollouts"]


@dataclass
class MemoryRollouts:
    """Specs and states in memory, with compare-and-swap."""

    settings: Plan | None = None
    """The plan of what is wanted next."""
    specs: dict[str, Spec] = field(default_factory=dict)
    states: dict[str, tuple[State, int]] = field(default_factory=dict)
    log: list[Decision] = field(default_factory=list)

    def spec(self, name: str) -> Spec | None:
        """Return the specification."""
        return self.specs.get(name)

    def problem(self, name: str) -> str:  # noqa: ARG002 - the port's signature
        """Find nothing wrong."""
        return ""

    def wish(self, name: str, registered: Revision) -> Spec:
        """Keep the plan that is in place."""
        return Spec(0, registered, self.plan(name))

    def plan(self, name: str) -> Plan:
        """Return the plan of what is wanted next."""
        return self.settings or self.specs[name].plan

    def propose(self, name: str, spec: Spec, *, anew: bool = False) -> None:  # noqa: ARG002 - the port's signature
        """Write a specification of the next generation."""
        before = self.specs.get(name)
        if spec.generation != (before.generation if before else 0) + 1:
            raise Conflict(f"generation {spec.generation} does not follow")
        self.specs[name] = spec

    def state(self, name: str) -> tuple[State, int]:
        """Return state and version."""
        return self.states.get(name, (State(), 0))

    def commit(self, name: str, state: State, decision: Decision | None, expected: int) -> int:
        """Write state and decision together."""
        if self.state(name)[1] != expected:
            raise Conflict(f"version {expected} is not in place")
        self.states[name] = state, expected + 1
        if decision is not None:
            self.log.append(decision)
        return expected + 1

    def decisions(self, name: str) -> list[Decision]:  # noqa: ARG002 - one rollout is enough
        """Return the decision log."""
        return list(self.log)


@dataclass
class FakeServers:
    """Servers that are ready as soon as they run, unless their revision is `broken`."""

    running: dict[str, int] = field(default_factory=dict)
    """Number of the start, by revision."""
    broken: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    """Why a server refuses to start, by revision."""
    silent: bool = False
    """Nobody can see the servers."""
    starts: int = 0

    def ensure(self, revision: Revision) -> None:
        """Start what does not run."""
        if revision.revision not in self.running:
            self.starts += 1
            self.running[revision.revision] = self.starts

    def remove(self, revision: str) -> None:
        """Stop it."""
        self.running.pop(revision, None)

    def restart(self, revision: str) -> None:
        """Begin its counters anew."""
        self.starts += 1
        self.running[revision] = self.starts

    def observe(self) -> Mapping[str, Workload]:
        """Return what is seen."""
        if self.silent:
            raise Unavailable("the servers cannot be seen")
        return {
            revision: Workload(
                0 if revision in self.broken | self.refused.keys() else 1,
                1,
                f"127.0.0.1:{8100 + start}",
                self.refused.get(revision, ""),
                shadows={f"server-{start}": f"127.0.0.1:{9100 + start}"},
                refused=revision in self.refused,
            )
            for revision, start in self.running.items()
        }


@dataclass
class FakeGateway:
    """A route that is in force as soon as it was asked for, unless the gateway is `stuck`."""

    route: Route = field(default_factory=Route)
    wanted: Route = field(default_factory=Route)
    known: dict[str, str] = field(default_factory=dict)
    stuck: bool = False
    silent: bool = False
    refused: str = ""
    """Why the gateway does not take the route up."""
    edited: Route | None = None
    """What somebody else put in force: it is seen once, and the next order takes it back."""

    def apply(self, route: Route, addresses: Mapping[str, str]) -> None:
        """Ask for a route."""
        self.known |= addresses
        names = [backend.revision for backend in route.backends]
        names += [shadow_of(route.mirror.revision)] if route.mirror else []
        if any(name not in self.known for name in names):
            raise Unavailable("an address is not known yet")
        self.wanted = route
        if not self.stuck:
            self.route = route

    def observe(self) -> Route:
        """Return the route in force."""
        if self.silent:
            raise Unavailable("the gateway does not answer")
        if self.refused:
            return Route(problem=self.refused)
        if not self.stuck:
            self.route, self.edited = self.edited or self.wanted, None
        return self.route

    def weights(self) -> dict[str, int]:
        """Return weight by revision."""
        return {b.revision: b.weight for b in self.route.backends}


@dataclass
class FakeTraffic:
    """Requests split by the route in force; each revision's servers count what they answer."""

    servers: FakeServers
    gateway: FakeGateway
    seed: int = 0
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Chance of an event, by revision and event."""
    unreadable: set[str] = field(default_factory=set)
    rehearsal: str | None = ""
    """What a canary's own request found; None: it does not answer."""
    outcomes: Reading = field(default_factory=Reading)
    """Cohorts that have matured; their `matured_until` decides whether they are new."""
    differs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Chance that a pair is an event, by canary and paired metric."""
    lost: float = 0.0
    """Chance that a mirrored request is never answered."""

    def __post_init__(self) -> None:
        self._mirrored: list[_Mirrored] = []
        self._random = np.random.default_rng(self.seed)
        self._counted: Counter[tuple[str, int, str]] = Counter()
        self.failed = 0

    def send(self, requests: int) -> None:
        """Send requests; those that meet no ready server fail."""
        weights = self.gateway.weights()
        seen = self.servers.running
        if not weights or not requests:
            return
        shares = np.array(list(weights.values())) / TOTAL
        for revision, count in zip(
            weights, self._random.multinomial(requests, shares), strict=True
        ):
            if not count:
                continue
            if revision not in seen or revision in self.servers.broken:
                self.failed += int(count)
                continue
            key = revision, seen[revision]
            self._counted[*key, "requests"] += int(count)
            for event, rate in self.rates.get(revision, {}).items():
                self._counted[*key, event] += int(self._random.binomial(count, rate))
            self._mirror(int(count))

    def _mirror(self, answered: int) -> None:
        """Copy what stable answered, as the route says."""
        mirror = self.gateway.route.mirror
        if mirror is None:
            return
        share = mirror.weight / TOTAL * (1 - self.lost)
        matched = int(self._random.binomial(answered, share))
        tallies = {
            name: (matched, int(self._random.binomial(matched, rate)))
            for name, rate in self.differs.get(mirror.revision, {}).items()
        }
        self._mirrored.append(_Mirrored(answered, matched, tallies))

    def _pairs(self, state: State) -> Pairs | None:
        """Return what was compared since the state's cursor, the number of the last request."""
        if not state.mirror or state.attempt is None:
            return None
        cursor = {"stable": ("start", len(self._mirrored))}
        _, seen = state.attempt.evidence.pairing.cursor.get("stable", ("", len(self._mirrored)))
        fresh = self._mirrored[seen:]
        names = {name for part in fresh for name in part.tallies}
        tallies = {name: _total(part.tallies[name] for part in fresh) for name in names}
        answered = sum(part.answered for part in fresh)
        matched = sum(part.matched for part in fresh)
        return Pairs(answered, matched, 0, tallies, cursor)

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:  # noqa: ARG002 - the port's signature
        """Return the counters of every readable server."""
        counters = {
            revision: Counters(
                float(start),
                self._counted[revision, start, "requests"],
                {e: self._counted[revision, start, e] for e in ("error", "slow", "invalid")},
            )
            for revision, start in self.servers.running.items()
            if revision in workloads and revision not in self.unreadable
        }
        problem = f"unreadable: {sorted(self.unreadable)}" if self.unreadable else ""
        cohorts, until = self.outcomes.cohorts, self.outcomes.matured_until
        pairs = None if self.unreadable else self._pairs(state)
        return Reading(counters, cohorts, until, problem, self.rehearsal, pairs)


class _Mirrored(NamedTuple):
    """One second of a mirror."""

    answered: int
    matched: int
    tallies: dict[str, Tally]


def _total(tallies: Iterable[Tally]) -> Tally:
    pairs = list(tallies)
    return sum(tried for tried, _ in pairs), sum(found for _, found in pairs)


@dataclass
class FakeReleases:
    """Remembers what was told, once per attempt and kind."""

    told: list[Release] = field(default_factory=list)
    refuse: str = ""
    silent: bool = False

    def record(self, release: Release) -> None:
        """Take note."""
        if self.silent:
            raise Unavailable("the registry does not answer")
        if self.refuse and release.kind == "promoted":
            raise Refused(self.refuse)
        known = {(r.attempt, r.kind, r.order) for r in self.told}
        if (release.attempt, release.kind, release.order) not in known:
            self.told.append(release)
