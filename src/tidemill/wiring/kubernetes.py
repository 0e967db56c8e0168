"""The controller of all rollouts of a cluster: adapters, workers, election, probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock, Thread

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from tidemill.adapters.kubernetes.analysis import Analysis
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
from tidemill.adapters.kubernetes.finalizer import marked, set_mark
from tidemill.adapters.kubernetes.keys import concerned
from tidemill.adapters.kubernetes.lease import Election
from tidemill.adapters.kubernetes.owned import ROLLOUT, Owner
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.controller.fleet import Fleet
from tidemill.controller.gauges import Gauges
from tidemill.controller.listening import HttpServer
from tidemill.controller.loop import Controller, Hands
from tidemill.controller.probes import Probes
from tidemill.controller.queue import WorkQueue
from tidemill.domain.rollout.model import Decision
from tidemill.errors import NotFound, Unavailable
from tidemill.ports.clock import Clock
from tidemill.ports.rollout import EvidenceSource, Releases

__all__ = ["RolloutFleet"]

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
RESYNC_SECONDS = 30.0
"""A rollout at rest is looked at this often although nothing about it has changed."""
SYNC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Tenant:
    """A rollout's controller, and what its specification may change about it."""

    uid: str
    traffic: Traffic
    analysis: Analysis
    controller: Controller
    rollouts: ResourceRollouts
    workloads: DeploymentWorkloads
    router: GatewayRouter


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
        self._clock, self._evidence, self._releases = clock, evidence, releases
        self._client = client
        self._queue = WorkQueue()
        self._cache = Cache(client, WATCHED, namespace, self._wake)
        self._events = DecisionEvents(client, identity)
        self._tenants: dict[str, _Tenant] = {}
        self._lock = Lock()
        self._leads = Event()
        registry = CollectorRegistry()
        self._gauges = Gauges(registry, self._phases, lambda: len(self._queue), self._leads.is_set)
        for one in told:
            registry.register(one)
        self._fleet = Fleet(self._look, self._queue, self._observed)
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
        election = Election(self._client, self._home, LEASE, self._identity)
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

    def _observed(self, seconds: float, result: str) -> None:
        self._gauges.looks.labels(result).observe(seconds)

    def _heard(self, rollout: Manifest, decision: Decision) -> None:
        self._gauges.decisions.labels(decision.action).inc()
        self._events.tell(rollout, decision)

    def _look(self, key: str) -> float | None:
        """Look at one rollout; return seconds until the next look, None when it is gone."""
        namespace, name = key.split("/")
        try:
            found = self._cache.get(ROLLOUTS, namespace, name)
        except NotFound:
            self._forget(key)
            return None
        tenant = self._tenant(key, found)
        if "deletionTimestamp" in found["metadata"]:
            if marked(found):
                tenant.router.release()
                set_mark(self._cache, found, present=False)
            self._forget(key)
            return None
        if tenant.traffic.mode == "Attach" and not marked(found):
            set_mark(self._cache, found, present=True)
        wait = tenant.controller.tick()
        if wait != 0.0:
            tenant.rollouts.acknowledge(name)
        attempt = self._cache.get(ROLLOUTS, namespace, name).get("status", {}).get("attempt")
        return RESYNC_SECONDS if wait is None or (wait and not attempt) else wait

    def _tenant(self, key: str, found: Manifest) -> _Tenant:
        """Return the rollout's controller, a new one when the object is another or moved."""
        uid, spec = found["metadata"]["uid"], found["spec"]
        traffic = Traffic.model_validate(spec["traffic"])
        analysis = Analysis.model_validate(spec["analysis"])
        tenant = self._tenants.get(key)
        made_of = tenant and (tenant.uid, tenant.traffic, tenant.analysis.prometheus)
        if tenant is None or made_of != (uid, traffic, analysis.prometheus):
            tenant = self._make(found, traffic, analysis, spec["runtime"]["replicas"])
            with self._lock:
                self._tenants[key] = tenant
        tenant.workloads.replicas = spec["runtime"]["replicas"]
        return tenant

    def _make(
        self, found: Manifest, traffic: Traffic, analysis: Analysis, replicas: int
    ) -> _Tenant:
        metadata = found["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        owner = Owner(namespace, name, uid)
        workloads = DeploymentWorkloads(
            self._cache, owner, replicas, grpc=traffic.kind == GRPC_ROUTES.kind
        )
        router = GatewayRouter(self._cache, owner, traffic)
        rollouts = ResourceRollouts(self._cache, namespace, _now, self._heard)
        hands = Hands(workloads, router, self._evidence(analysis.prometheus), self._releases)
        controller = Controller(name, rollouts, rollouts, hands, self._clock, _now)
        return _Tenant(uid, traffic, analysis, controller, rollouts, workloads, router)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._tenants.pop(key, None)


def _now() -> datetime:
    return datetime.now(UTC)
