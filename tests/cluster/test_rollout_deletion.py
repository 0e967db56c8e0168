"""A rollout is deleted, in each phase, while no controller runs; one comes back."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from tests.cluster.rollout_backends import SHORT, ResourceWorld
from tests.cluster.rollout_plane import PlayedPlane
from tests.cluster.rollouts import attached, attachment, eventually
from tests.cluster.test_rollout_controller import account, running
from tests.unit.rollout_world import NAME

from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    ROLLOUTS,
    SERVICES,
    KubeClient,
)
from tidemill.adapters.kubernetes.finalizer import set_mark
from tidemill.adapters.kubernetes.owned import ROLLOUT, Owner
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.domain.rollout.model import Phase, intent
from tidemill.errors import NotFound

__all__ = ["account"]

pytestmark = pytest.mark.usefixtures("controllers")

ATTACHED = attached(SHORT) | {"strategy__scaleDownDelaySeconds": 60}
OWNED = SHORT | {"strategy__scaleDownDelaySeconds": 60}
PHASES = [phase for phase in get_args(Phase) if phase != "empty"]


def bring_to(world: ResourceWorld, phase: str) -> None:
    """Play a rollout until a phase is entered, then let no controller run any more."""
    if phase == "initializing":
        world.servers.broken = {world.revisions["v1"].revision}
        world.want("v1")
        world.settle()
    else:
        world.deploy()
    if phase not in ("initializing", "stable"):
        world.bring_to(phase)
    assert world.phase == phase


def act(api: KubeClient, namespace: str, world: ResourceWorld, traffic: dict[str, Any]) -> Owner:
    """Make on the cluster what the state asks for, as the controller had."""
    found = api.get(ROLLOUTS, namespace, NAME)
    owner = Owner(namespace, NAME, found["metadata"]["uid"])
    wanted = intent(world.state)
    for revision in wanted.workloads:
        DeploymentWorkloads(api, owner, replicas=1).ensure(revision)
    GatewayRouter(api, owner, Traffic.model_validate(traffic)).apply(wanted.route, {})
    return owner


def gone(api: KubeClient, namespace: str) -> bool:
    mine = {ROLLOUT: NAME}
    kept = [
        found for kind in (DEPLOYMENTS, SERVICES) for found in api.select(kind, namespace, mine)
    ]
    return not kept and not api.select(ROLLOUTS, namespace, {})


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_an_attached_route_is_restored_by_the_next_controller(api, namespace, account, phase):
    world = ResourceWorld(ATTACHED).on(api, namespace, ATTACHED)
    before = api.create(HTTP_ROUTES, attachment(namespace))
    bring_to(world, phase)
    act(api, namespace, world, ATTACHED["traffic"])
    set_mark(api, api.get(ROLLOUTS, namespace, NAME), present=True)
    changed = api.get(HTTP_ROUTES, namespace, "api")["spec"]
    assert changed != before["spec"] or phase == "initializing"
    api.delete(ROLLOUTS, namespace, NAME)
    assert api.select(ROLLOUTS, namespace, {}), "it waits for a controller"
    with PlayedPlane(api, namespace, "api") as plane, running(account, namespace, plane):
        eventually(lambda: gone(api, namespace), 60)
    assert api.get(HTTP_ROUTES, namespace, "api")["spec"] == before["spec"]


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_an_owned_rollout_needs_no_controller_to_go(api, namespace, phase):
    world = ResourceWorld(OWNED).on(api, namespace, OWNED)
    bring_to(world, phase)
    act(api, namespace, world, {"parentRefs": [{"name": "gateway"}]})
    assert api.get(HTTP_ROUTES, namespace, NAME)
    api.delete(ROLLOUTS, namespace, NAME)
    eventually(lambda: gone(api, namespace), 60)

    def route_gone() -> bool:
        try:
            api.get(HTTP_ROUTES, namespace, NAME)
        except NotFound:
            return True
        return False

    eventually(route_gone, 60)
    assert world.controller.tick() is None, "a controller that is late finds nothing to do"
