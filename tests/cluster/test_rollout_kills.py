"""A rollout's whole controller is killed at its requests and decides as on one machine."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.cluster.rollout_backends import (
    SHORT,
    Embedded,
    ResourceWorld,
    outcome,
    script,
    stored,
    without_evidence,
)
from tests.cluster.rollout_plane import Plane
from tests.cluster.rollouts import attached, attachment
from tests.mortal import Fate, Killed, Mortal
from tests.unit.rollout_world import NAME

from tidemill.adapters.kubernetes.client import DEPLOYMENTS, HTTP_ROUTES, ROLLOUTS, KubeClient
from tidemill.adapters.kubernetes.events import DecisionEvents
from tidemill.adapters.kubernetes.lease import Election
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.domain.rollout.model import Backend, Route
from tidemill.errors import NotFound
from tidemill.testing.rollout import FakeTraffic
from tidemill.wiring.kubernetes import LEASE
from tidemill.wiring.tenants import Tenants

pytestmark = [pytest.mark.usefixtures("controllers"), pytest.mark.slow]

SECONDS = 14
WRITES = {
    "replace Lease",
    "apply Service",
    "apply Deployment",
    "replace ModelRollout status",
    "create Event",
    "record promoted",
    "delete Service",
}
"""Of these at least one was the last that a process was about to do."""
Look = Callable[[], float | None]


class Met(Plane):
    """What traffic meets on the cluster: servers that are ready, the weights of the route."""

    broken = frozenset[str]()

    def __init__(self, api: KubeClient, namespace: str, route: str) -> None:
        super().__init__(api, namespace, route)
        self.running: dict[str, int] = {}
        self._starts = itertools.count(1)

    @property
    def route(self) -> Route:
        """The rollout's own backends in the route that is written."""
        ours = {
            service.removeprefix(f"{NAME}-"): weight
            for service, weight in super().weights().items()
            if service.startswith(NAME)
        }
        return Route(tuple(Backend(revision, ours[revision]) for revision in sorted(ours)))

    def weights(self) -> dict[str, int]:
        """Return weight by revision."""
        return {backend.revision: backend.weight for backend in self.route.backends}

    def play(self) -> bool:
        """Do what kubelet and gateway have to do; return whether anything is still under way."""
        seen = self.run_pods()
        self.running = {
            revision: self.running.get(revision) or next(self._starts) for revision in seen
        }
        found = self._api.select(DEPLOYMENTS, self._namespace, {ROLLOUT: ""})
        waited_for = [
            one
            for one in found
            if one["status"].get("availableReplicas", 0) != one["spec"]["replicas"]
        ]
        return self._take_up() or bool(waited_for) or len(found) != len(seen)

    def _take_up(self) -> bool:
        try:
            return self.take_up()
        except NotFound:
            return False


class Victims:
    """Processes of one rollout's controller: each is killed at one of its steps."""

    def __init__(self, world: ResourceWorld, api: KubeClient, namespace: str, plane: Met) -> None:
        self._world, self._api, self._namespace, self._plane = world, api, namespace, plane
        self.deaths: Counter[str] = Counter()

    def look(self) -> None:
        """Let one process after the other die before the next request, until one comes to rest.

        After a request is before the next one. What changes the state begins another look, which
        is killed from its first request on.
        """
        dies_at = 1
        while True:
            before = self._world.state
            try:
                self._rest(self._process(Fate(dies_at)))
            except Killed as death:
                self.deaths[str(death)] += 1
                dies_at = dies_at + 2 if self._world.state == before else 1
            else:
                return

    def _process(self, fate: Fate) -> Look:
        """Return what the holder of the Lease does; every request and act may be its last."""
        world, objects = self._world, Mortal(self._api, fate)
        assert Election(objects, self._namespace, LEASE, "controller").attempt()
        tenants = Tenants(
            objects,
            world.controller._clock,
            lambda: world.now,
            lambda _: Mortal(world.traffic, fate),
            Mortal(world.releases, fate),
            DecisionEvents(objects, "controller").tell,
            lambda owner, what: pytest.fail(f"{owner.name}: {what}"),
        )
        return lambda: tenants.look(f"{self._namespace}/{NAME}")

    def _rest(self, look: Look) -> None:
        """Look while there is anything to decide or under way."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            moving = self._plane.play()
            if look() != 0.0 and not moving and not self._plane.play():
                return
        raise AssertionError("it never comes to rest")


@pytest.mark.parametrize(
    ("settings", "route"), [(SHORT, NAME), (attached(SHORT), "api")], ids=["Owned", "Attach"]
)
def test_killed_anywhere_it_takes_the_decisions_of_one_machine(
    api, namespace, store, settings, route
):
    before = api.create(HTTP_ROUTES, attachment(namespace))["spec"]
    world, alone = ResourceWorld(settings).on(api, namespace, settings), ResourceWorld(settings)
    plane = Met(api, namespace, route)
    world.servers = world.gateway = plane
    world.traffic = FakeTraffic(plane, plane)
    alone.store = Embedded(store, lambda: alone.plan)
    alone.restart()
    victims = Victims(world, api, namespace, plane)
    for one in (world, alone):
        one.rates(v1=0.02, v2=0.02, v3=0.02)
        one.want("v1")
    for second in range(SECONDS):
        for one in (world, alone):
            script(one, second)
            one.now += timedelta(seconds=1)
            one.traffic.send(200)
        alone.settle()
        victims.look()
    assert [o.outcome for o in world.state.history] == ["rolled_back", "promoted"]
    assert stored(world, api, namespace) == without_evidence(alone.store.log)
    found, expected = outcome(world), outcome(alone)
    assert found | {"log": []} == expected | {"log": []}
    died_at = {where.removeprefix("before ") for where in victims.deaths}
    assert died_at >= WRITES | {
        "replace HTTPRoute" if route == "api" else "apply HTTPRoute",
    }
    api.delete(ROLLOUTS, namespace, NAME)
    victims.look()
    assert not api.select(ROLLOUTS, namespace, {}), "its finalizer is taken off"
    assert api.get(HTTP_ROUTES, namespace, "api")["spec"] == before
