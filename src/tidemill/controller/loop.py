"""One controller for one rollout; `tick` may be killed at any point and called again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Event

import structlog

from tidemill.domain.rollout.model import (
    Decision,
    Now,
    Route,
    Snapshot,
    Spec,
    State,
    Workload,
    intent,
    shadow_of,
)
from tidemill.domain.rollout.readings import Reading
from tidemill.domain.rollout.reconcile import reconcile
from tidemill.errors import PermanentError, RetryableError, TidemillError
from tidemill.ports.clock import Clock
from tidemill.ports.rollout import EvidenceSource, Releases, Router, Specs, States, Workloads

__all__ = ["Controller", "Hands", "tell"]

log = structlog.get_logger(__name__)
MAX_SAID = 1000
"""Characters of what a server, a gateway or a registry says: a condition may have 32,768."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What the controller acts and looks through."""

    workloads: Workloads
    router: Router
    evidence: EvidenceSource
    releases: Releases


@dataclass(frozen=True, slots=True)
class _Delivery:
    delivered: int = 0
    refused: str = ""


class Controller:
    """Brings the world to the state, and the state to what the evidence says."""

    def __init__(
        self,
        name: str,
        specs: Specs,
        states: States,
        hands: Hands,
        clock: Clock,
        wall: Callable[[], datetime],
    ) -> None:
        self.name = name
        self._specs = specs
        self._states = states
        self._hands = hands
        self._clock = clock
        self._wall = wall

    def run(self, stop: Event, *, idle_seconds: float = 1.0) -> None:
        """Tick until `stop` is set."""
        while not stop.is_set():
            try:
                wait = self.tick()
            except RetryableError as error:
                log.warning("will look again", rollout=self.name, problem=error.message)
                wait = idle_seconds
            stop.wait(idle_seconds if wait is None else wait)

    def tick(self) -> float | None:
        """Look, decide, persist, act; return the seconds until the next look.

        None when there is no rollout of this name yet. Raises Unavailable when the store does not
        answer, Conflict when somebody else wrote first: this look is void, a later one reads anew.
        """
        spec = self._specs.spec(self.name)
        if spec is None:
            return None
        state, version = self._states.state(self.name)
        delivery = self._act(state)
        now = Now(self._wall(), self._clock.now())
        result = reconcile(self._observe(spec, state, delivery, now), now)
        if result.state == state:
            return result.requeue
        self._states.commit(self.name, result.state, result.decision, version)
        tell(result.decision)
        return result.requeue

    def _act(self, state: State) -> _Delivery:
        """Make the world equal to the state's intent; what does not answer is tried next time.

        Servers start before they get traffic and stop after they lost it.
        """
        wanted, hands = intent(state), self._hands
        for revision in wanted.workloads:
            _attempt(hands.workloads.ensure, revision)
        seen = self._workloads() or {}
        addresses = {revision: found.address for revision, found in seen.items()}
        addresses |= {
            shadow_of(revision): address
            for revision, found in seen.items()
            for address in found.shadows.values()
        }
        _attempt(hands.router.apply, wanted.route, addresses)
        gone = sorted(set(seen) - {revision.revision for revision in wanted.workloads})
        if gone and self._route() == wanted.route:
            for name in gone:
                _attempt(hands.workloads.remove, name)
        return self._deliver(state)

    def _deliver(self, state: State) -> _Delivery:
        for count, release in enumerate(state.releases):
            try:
                self._hands.releases.record(release)
            except RetryableError as error:
                log.warning("release not recorded yet", problem=error.message)
                return _Delivery(count)
            except PermanentError as error:
                log.error("release refused", kind=release.kind, problem=error.message)
                return _Delivery(count + 1, error.message if release.kind == "promoted" else "")
        return _Delivery(len(state.releases))

    def _observe(self, spec: Spec, state: State, delivery: _Delivery, now: Now) -> Snapshot:
        workloads = self._workloads()
        reading = Reading()
        if state.attempt is not None and workloads is not None:
            reading = self._hands.evidence.read(workloads, state, now)
        return Snapshot(
            spec=spec,
            state=state,
            workloads=workloads,
            route=self._route(),
            reading=replace(
                reading,
                problem=_brief(reading.problem),
                rehearsal=None if reading.rehearsal is None else _brief(reading.rehearsal),
            ),
            refused=_brief(delivery.refused),
            delivered=delivery.delivered,
        )

    def _workloads(self) -> Mapping[str, Workload] | None:
        try:
            found = self._hands.workloads.observe()
            return {name: replace(one, detail=_brief(one.detail)) for name, one in found.items()}
        except RetryableError as error:
            log.warning("the servers cannot be observed", problem=error.message)
            return None

    def _route(self) -> Route | None:
        try:
            found = self._hands.router.observe()
            return replace(found, problem=_brief(found.problem))
        except RetryableError as error:
            log.warning("the gateway cannot be observed", problem=error.message)
            return None


def _brief(said: str) -> str:
    """Return what others said, short enough to be kept in the state many times over."""
    return said if len(said) <= MAX_SAID else f"{said[: MAX_SAID - 1]}…"


def _attempt(act: Callable[..., None], *arguments: object) -> None:
    """Act; what fails now is noticed by the next look and tried again.

    A refusal, too: servers that may not be started must not end the protection of those that run.
    """
    try:
        act(*arguments)
    except TidemillError as error:
        log.warning("not done yet", problem=error.message)


def tell(decision: Decision | None) -> None:
    """Say a decision in the log."""
    if decision is not None:
        brief = replace(decision, evidence=(), paired=())
        log.info(
            "decided",
            seq=brief.seq,
            action=brief.action,
            reason=brief.reason,
            phase=brief.phase,
            revision=brief.revision,
            weight=brief.weight,
        )
