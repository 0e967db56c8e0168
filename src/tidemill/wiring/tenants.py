"""The rollouts of a cluster as one controller looks at them: each by adapters of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from tidemill.adapters.kubernetes.analysis import Analysis
from tidemill.adapters.kubernetes.client import GRPC_ROUTES, ROLLOUTS, Manifest, Objects
from tidemill.adapters.kubernetes.finalizer import marked, set_mark
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.rollout.model import Decision
from tidemill.errors import NotFound
from tidemill.ports.clock import Clock
from tidemill.ports.rollout import EvidenceSource, Releases

__all__ = ["Tenants"]

RESYNC_SECONDS = 30.0
"""A rollout at rest is looked at this often although nothing about it has changed."""


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


class Tenants:
    """Looks at rollouts by their keys, `namespace/name`; nothing but speed is lost with it."""

    def __init__(
        self,
        objects: Objects,
        clock: Clock,
        wall: Callable[[], datetime],
        evidence: Callable[[str], EvidenceSource],
        releases: Releases,
        heard: Callable[[Manifest, Decision], None],
        repaired: Callable[[Owner, str], None],
    ) -> None:
        """`evidence` makes a source for one rollout, of a Prometheus' URL or, empty, of the pods.

        `heard` is told each decision after it was written, with the object that it is about;
        `repaired` what others had made of a rollout's route when it was taken back.
        """
        self._objects, self._clock, self._wall = objects, clock, wall
        self._evidence, self._releases = evidence, releases
        self._heard, self._repaired = heard, repaired
        self._tenants: dict[str, _Tenant] = {}

    def look(self, key: str) -> float | None:
        """Look at one rollout; return seconds until the next look, None when it is gone."""
        namespace, name = key.split("/")
        try:
            found = self._objects.get(ROLLOUTS, namespace, name)
        except NotFound:
            self._forget(key)
            return None
        tenant = self._tenant(key, found)
        if "deletionTimestamp" in found["metadata"]:
            if marked(found):
                tenant.router.release()
                set_mark(self._objects, found, present=False)
            self._forget(key)
            return None
        if tenant.traffic.mode == "Attach" and not marked(found):
            set_mark(self._objects, found, present=True)
        wait = tenant.controller.tick()
        if wait != 0.0:
            tenant.rollouts.acknowledge(name)
        attempt = self._objects.get(ROLLOUTS, namespace, name).get("status", {}).get("attempt")
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
            self._objects, owner, replicas, grpc=traffic.kind == GRPC_ROUTES.kind
        )
        router = GatewayRouter(self._objects, owner, traffic, partial(self._repaired, owner))
        rollouts = ResourceRollouts(self._objects, namespace, self._wall, self._heard)
        hands = Hands(workloads, router, self._evidence(analysis.prometheus), self._releases)
        controller = Controller(name, rollouts, rollouts, hands, self._clock, self._wall)
        return _Tenant(uid, traffic, analysis, controller, rollouts, workloads, router)

    def _forget(self, key: str) -> None:
        self._tenants.pop(key, None)
