"""More servers during an attempt: nothing is disturbed, and an autoscaler sees who has the load."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.unit.rollout_world import World, plan, revision

from tidemill.adapters.kubernetes.client import DEPLOYMENTS, Manifest, Resource
from tidemill.adapters.kubernetes.owned import REVISION, Owner
from tidemill.adapters.kubernetes.scale import Scale, make_scale, said_scale, scaled
from tidemill.adapters.kubernetes.workloads import GROWN, DeploymentWorkloads
from tidemill.domain.rollout.model import Revision, State, Workload
from tidemill.errors import NotFound
from tidemill.testing.rollout import FakeServers


class Elastic(FakeServers):
    """Servers of which more can be asked for; new ones are not ready by themselves."""

    wanted, ready, grown_from = 2, 2, 0

    def scale(self, wanted: int) -> None:
        """Ask for another number."""
        self.grown_from = self.wanted if wanted > self.wanted else 0
        self.wanted = wanted

    def arrive(self, ready: int) -> None:
        """Let so many be ready."""
        self.ready = ready
        self.grown_from = 0 if ready >= self.wanted else self.grown_from

    def observe(self) -> Mapping[str, Workload]:
        """Return what is seen."""
        size = {"ready": self.ready, "desired": self.wanted, "grown_from": self.grown_from}
        return {name: replace(found, **size) for name, found in super().observe().items()}


@pytest.fixture
def world() -> World:
    world = World(plan(scale_down_seconds=60))
    world.servers = Elastic()
    world.traffic.servers = world.servers
    world.restart()
    world.deploy()
    world.want("v2")
    return world


def test_servers_that_are_added_are_no_lost_ones(world):
    world.run_until("progressing", step="c25")
    before = len(world.store.log)
    world.servers.scale(8)
    world.run(60)
    assert world.store.log[before:] == [], "no hold, no rollback, no step either"
    assert world.message("Progressing") == "servers are being added"
    world.servers.arrive(8)
    world.run(1)
    assert world.step == "c50"
    assert world.state.attempts == 1


@pytest.mark.parametrize("phase", ["promoting", "finalizing"])
def test_more_servers_do_not_take_a_promotion_back(world, phase):
    world.run_until(phase)
    world.servers.scale(8)
    world.run(10)
    assert "rollback" not in world.actions
    assert world.phase == "finalizing"


def test_a_loss_while_servers_are_added_is_a_loss(world):
    world.run_until("progressing", step="c50")
    world.servers.scale(8)
    world.run(3)
    assert "hold" not in world.actions
    world.servers.arrive(0)
    world.run(1)
    assert world.actions[-1] == "hold"


def test_fewer_servers_are_taken_up_at_once(world):
    world.run_until("progressing", step="c25")
    world.servers.scale(1)
    world.servers.arrive(1)
    world.run_until("finalizing")
    assert not {"hold", "rollback"} & set(world.actions)


def arms(state: State) -> str:
    """Return the revisions whose servers an autoscaler looks at."""
    found = make_scale("churn", state, [])
    return found.selector.partition(" in ")[2] if found else ""


SEEN = [
    ("preparing", "", "(v1)"),
    ("progressing", "c5", "(v1,v2)"),
    ("progressing", "c50", "(v1,v2)"),
    ("promoting", "", "(v2)"),
    ("finalizing", "", "(v2)"),
]


@pytest.mark.parametrize(("phase", "step", "seen"), SEEN)
def test_an_autoscaler_sees_the_arms_that_have_traffic(world, phase, step, seen):
    world.run_until(phase, step=step)
    assert arms(world.state) == seen


def test_after_a_promotion_it_sees_what_serves(world):
    world.run_until("finalizing")
    world.run_until("stable")
    assert arms(world.state) == "(v2)"


def test_after_a_rollback_it_sees_stable(world):
    world.run_until("progressing", step="c25")
    world.rates(v2=0.9)
    world.run_until("rolling_back")
    assert arms(world.state) == "(v1)"


def test_it_sees_the_first_revision_before_requests_come():
    assert make_scale("churn", State(), []) is None
    assert arms(State(phase="initializing", stable=revision("v1"))) == "(v1)"


def test_the_servers_of_these_arms_are_counted():
    found = [
        {"metadata": {"labels": {REVISION: name}}, "status": {"replicas": count}}
        for name, count in {"v1": 3, "v0": 5}.items()
    ]
    state = State(phase="stable", stable=revision("v1"))
    selector = "serving.tidemill.dev/rollout=churn,serving.tidemill.dev/revision in (v1)"
    scale = make_scale("churn", state, found)
    assert scale == Scale(3, selector)
    assert said_scale({"replicas": 3, "selector": selector}) == scale
    assert said_scale({}) is None


class Cluster:
    """Objects that are applied; their servers are available when a test says so."""

    def __init__(self) -> None:
        self.found: dict[tuple[Resource, str], Manifest] = {}

    def get(self, resource: Resource, _: str, name: str) -> Manifest:
        """Return an object; raises NotFound."""
        if (resource, name) not in self.found:
            raise NotFound(name)
        return self.found[resource, name]

    def apply(self, resource: Resource, manifest: Manifest, *, force: bool) -> Manifest:
        """Put an object, its status stays."""
        name = manifest["metadata"]["name"]
        before = self.found.get((resource, name), {})
        made = copy.deepcopy(manifest) | {"status": before.get("status", {})}
        made["metadata"] |= {"uid": name, "generation": 1, "resourceVersion": "1"}
        self.found[resource, name] = made
        return made

    def select(self, resource: Resource, _: str, __: Mapping[str, str]) -> list[Manifest]:
        """Return all of a kind."""
        return [found for (kind, _), found in self.found.items() if kind == resource]

    def available(self, count: int) -> None:
        """Let so many servers be available."""
        for deployment in self.select(DEPLOYMENTS, "", {}):
            deployment["status"] = {"availableReplicas": count, "observedGeneration": 1}


def served(runtime: Mapping[str, object]) -> Revision:
    return replace(revision("v1"), runtime=runtime)


def test_what_it_had_is_on_the_deployment_until_it_has_more():
    objects, image = Cluster(), "serve@sha256:" + "1" * 64
    subject = served({"image": image, "bundles": {"claimName": "models"}})
    owner = Owner("ml", "churn", "uid")

    def ask(replicas: int) -> tuple[int, str]:
        """Ensure as a controller that has just started; return what it is judged by."""
        servers = DeploymentWorkloads(objects, owner, replicas)
        servers.ensure(subject)
        (live,) = objects.select(DEPLOYMENTS, "", {})
        return servers.observe()["v1"].grown_from, live["metadata"]["annotations"].get(GROWN, "")

    assert ask(2) == (0, ""), "new, nothing to lose"
    objects.available(2)
    assert ask(2) == (0, "")
    assert ask(4) == (2, "2")
    assert ask(8) == (2, "2"), "still what it had"
    objects.available(3)
    assert ask(8) == (2, "2")
    assert ask(3) == (0, "2"), "they are there; the note goes with the next look"
    assert ask(3) == (0, "")
    assert ask(2) == (0, "")
    objects.available(2)
    assert ask(8) == (2, "2")
    objects.available(8)
    assert ask(8) == (0, "")
    objects.available(7)
    assert ask(8) == (0, ""), "a lost one"


BODY = {"model": {"version": "2"}, "runtime": {"image": "new", "replicas": 2}}


@pytest.mark.parametrize(("subresource", "kept"), [("scale", 7), ("status", 2), (None, 2)], ids=str)
def test_a_number_that_was_scaled_is_not_taken_back(subresource, kept):
    entry = {"manager": "m"} | ({"subresource": subresource} if subresource else {})
    found = {
        "metadata": {"managedFields": [entry]},
        "spec": {"runtime": {"image": "old", "replicas": 7}},
    }
    body = scaled(found, BODY)
    assert body["runtime"] == {"image": "new", "replicas": kept}
    assert scaled(None, BODY) == BODY
