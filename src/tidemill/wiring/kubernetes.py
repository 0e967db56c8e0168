"""The controller of all rollouts of a cluster: adapters, workers, election, probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from threading import Event, Thread

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from tidemill.adapters.kubernetes.cache import Cache
from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    GRPC_ROUTES,
    HTTP_ROUTES,
    PODS,
    POLICIES,
    ROLLOUTS,
    SERVICES,
    KubeClient,
    Manifest,
    Resource,
)
from tidemill.adapters.kubernetes.events import DecisionEvents
from tidemill.adapters.kubernetes.keys import concerned
from tidemill.adapters.kubernetes.lease import Election, account
from tidemill.adapters.kubernetes.owned import ROLLOUT, Owner
from tidemill.controller.fleet import Fleet
from tidemill.controller.gauges import Gauges
from tidemill.controller.listening import HttpServer
from tidemill.controller.probes import Probes
from tidemill.controller.queue import WorkQueue
from tidemill.domain.rollout.model import Decision
from tidemill.errors import Unavailable
from tidemill.ports.clock import Clock
from tidemill.ports.rollout import EvidenceSource, Releases
from tidemill.wiring.tenants import Tenants

__all__ = ["RolloutFleet"]

log = structlog.get_logger(__name__)
OURS = {ROLLOUT: ""}
WATCHED = {
    ROLLOUTS: {},
    POLICIES: {},
    DEPLOYMENTS: OURS,
    SERVICES: OURS,
    PODS: OURS,
    HTTP_ROUTES: {},
    GRPC_ROUTES: {},
}  # type: dict[Resource, dict[str, str]]
LEASE = "tidemill-rollout-controller"
WORKERS = 8
SYNC_SECONDS = 60.0


class RolloutFleet:
    """Runs every rollout of a namespace, or of the whole cluster."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        home: str,
        address: tuple[str, int],
        clock: Clock,
        evidence: Callable[[str], EvidenceSource],
        releases: Releases,
        identity: str,
        told: Iterable[Collector] = (),
    ) -> None:
        """`evidence` makes a source for one rollout, of a Prometheus' URL or, empty, of the pods.

        An empty `namespace` means all of them. `home` is the namespace of the Lease by which one of
        several controllers, each with an `identity` of its own, is elected. The probes answer at
        `address`, port 0 takes a free one; `told` is what their metrics tell beside the fleet.
        """
        self._home, self._identity = home, identity
        self._client = client
        self._queue = WorkQueue()
        self._cache = Cache(client, WATCHED, namespace, self._wake)
        self._events = DecisionEvents(client, identity)
        self._tenants = Tenants(
            self._cache, clock, _now, evidence, releases, self._heard, self._repaired
        )
        self._leads = Event()
        registry = CollectorRegistry()
        self._gauges = Gauges(
            registry, self._phases, self._stalled, lambda: len(self._queue), self._leads.is_set
        )
        for one in told:
            registry.register(one)
        self._fleet = Fleet(self._tenants.look, self._queue, self._observed)
        probes = Probes(self.problem, self._unsynced, registry)
        self._server = HttpServer(address, probes.respond, "probes")

    @property
    def port(self) -> int:
        """Port of the probes."""
        return self._server.port

    def run(self, stop: Event) -> None:
        """Watch, wait to be elected, work; until `stop` or until the election is lost.

        Raises Unavailable when the cluster could not be listed in time.
        """
        self._cache.start(stop)
        try:
            with self._server:
                self._lead(stop)
        finally:
            stop.set()
            self._cache.end()

    def _lead(self, stop: Event) -> None:
        if not self._cache.wait(SYNC_SECONDS) and not stop.is_set():
            raise Unavailable(
                f"the cluster was not listed within {SYNC_SECONDS:.0f} s",
                hint="may this service account list and watch? the log names what it may not",
            )
        owner = account(self._client, self._home)
        election = Election(self._client, self._home, LEASE, self._identity, owner=owner)
        if not election.wait(stop):
            return
        self._leads.set()
        keeper = Thread(target=election.keep, args=(stop,), name="lease")
        keeper.start()
        try:
            self._fleet.run(stop, WORKERS)
        finally:
            stop.set()
            keeper.join()
            self._leads.clear()

    def problem(self) -> str:
        """Say why this process should be restarted; empty when it should not."""
        dead = self._cache.dead()
        if dead:
            return f"nobody watches {', '.join(dead)} any more"
        return self._fleet.problem() if self._leads.is_set() else ""

    def _unsynced(self) -> str:
        return "" if self._cache.wait(0) else "the cluster is not listed yet"

    def _wake(self, resource: Resource, found: Manifest, before: Manifest | None) -> None:
        for key in concerned(resource, found, before, lambda: self._cache.all(ROLLOUTS)):
            self._queue.add(key)

    def _phases(self) -> Counter[str]:
        found = self._cache.all(ROLLOUTS)
        return Counter(entry.get("status", {}).get("phase", "empty") for entry in found)

    def _stalled(self) -> Counter[str]:
        statuses = (entry.get("status", {}) for entry in self._cache.all(ROLLOUTS))
        return Counter(
            condition["reason"]
            for status in statuses
            for condition in status.get("conditions", [])
            if (condition["type"], condition["status"]) == ("Stalled", "True")
        )

    def _observed(self, seconds: float, result: str) -> None:
        self._gauges.looks.labels(result).observe(seconds)

    def _heard(self, rollout: Manifest, decision: Decision) -> None:
        self._gauges.decisions.labels(decision.action).inc()
        self._events.tell(rollout, decision)

    def _repaired(self, owner: Owner, what: str) -> None:
        log.warning("route taken back", rollout=f"{owner.namespace}/{owner.name}", found=what)
        self._gauges.repairs.inc()
        self._events.repaired(owner, what)


def _now() -> datetime:
    return datetime.now(UTC)
