"""The same scenario on the API server and in memory takes the same decisions, whatever fails."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.cluster.rollout_backends import (
    SHORT,
    Embedded,
    Resources,
    ResourceWorld,
    outcome,
    script,
    stored,
    without_evidence,
)
from tests.cluster.rollout_scenarios import SCENARIOS, Scenario
from tests.cluster.rollouts import MIRRORS, client, gateway
from tests.unit.rollout_world import NAME

from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient, Manifest
from tidemill.controller.loop import Controller, Hands
from tidemill.errors import Conflict, Unavailable


def told(scenario: Scenario, settings: dict[str, Any], store: Engine) -> dict[str, Any]:
    """Play a scenario on the backend of one machine."""
    world = ResourceWorld(settings)
    world.store = Embedded(store, lambda: world.plan)
    world.restart()
    scenario(world)
    assert len(world.store.log) > 3
    return outcome(world)


@pytest.mark.parametrize(
    ("scenario", "changes"), SCENARIOS, ids=lambda v: getattr(v, "__name__", "")
)
def test_the_resource_takes_the_decisions_of_one_machine(
    cluster, api, namespace, store, scenario, changes
):
    settings = SHORT | changes
    gateway(cluster, namespace, *MIRRORS)
    world = ResourceWorld(settings).on(api, namespace, settings)
    scenario(world)
    assert outcome(world) == told(scenario, settings, store)


class Storm:
    """An API server in trouble: by turns it refuses a write, loses the answer to one, is away."""

    def __init__(self, api: KubeClient) -> None:
        self._api, self._turn = api, itertools.count(1)
        self.troubles = 0

    def get(self, *arguments: Any) -> Manifest:
        if next(self._turn) % 7 == 0:
            self.troubles += 1
            raise Unavailable("no answer")
        return self._api.get(*arguments)

    def replace(self, *arguments: Any) -> Manifest:
        turn = next(self._turn) % 3
        self.troubles += turn != 2
        if turn == 0:
            raise Conflict("the object has been modified")
        written = self._api.replace(*arguments)
        if turn == 1:
            raise Unavailable("the answer was lost")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


class Stubborn(Controller):
    """Looks again when a look failed, as the loop does, at the same instant."""

    def tick(self) -> float | None:
        for _ in range(50):
            try:
                return super().tick()
            except (Unavailable, Conflict):
                continue
        raise AssertionError("never")


def twin(world: ResourceWorld, store: Resources, kind: type[Controller] = Controller) -> Controller:
    """Return another process's controller of the same world."""
    hands = Hands(world.servers, world.gateway, world.traffic, world.releases)
    return kind(NAME, store, store, hands, world.controller._clock, lambda: world.now)


def test_a_storm_of_conflicts_and_lost_answers_changes_no_decision(api, namespace):
    storm = Storm(api)
    world = ResourceWorld(SHORT).on(api, namespace, SHORT)
    world.deploy()
    world.store = Resources(storm, namespace, world, SHORT)
    world.controller = twin(world, world.store, Stubborn)
    calm = Resources(api, namespace, world, SHORT)
    spec = calm.spec(NAME)
    wanted = replace(spec, generation=spec.generation + 1, desired=world.revisions["v2"])
    calm.propose(NAME, wanted)
    for _ in range(20):
        world.now += timedelta(seconds=1)
        world.traffic.send(200)
        world.settle()
    assert storm.troubles > 20

    alone = ResourceWorld(SHORT)
    alone.deploy()
    alone.want("v2")
    for _ in range(20):
        alone.now += timedelta(seconds=1)
        alone.traffic.send(200)
        alone.settle()
    world.store = calm
    assert world.state.history[0].outcome == "promoted"
    assert stored(world, api, namespace) == without_evidence(alone.store.log)
    assert world.releases.told == alone.releases.told
    assert world.traffic.failed == 0


def test_two_controllers_take_the_decisions_of_one(cluster, api, namespace):
    alone, shared = ResourceWorld(SHORT), ResourceWorld(SHORT).on(api, namespace, SHORT)
    for world in (alone, shared):
        world.want("v1")
    with client(cluster) as other:
        second_controller = twin(shared, Resources(other, namespace, shared, SHORT))
        for second in range(14):
            for world in (alone, shared):
                script(world, second)
                world.now += timedelta(seconds=1)
                world.traffic.send(200)
            alone.settle()
            for _ in range(20):
                if 0.0 not in {second_controller.tick(), shared.controller.tick()}:
                    break
    assert stored(shared, api, namespace) == without_evidence(alone.store.log)
    assert shared.traffic.failed == alone.traffic.failed == 0


def test_a_rollout_that_is_deleted_is_nobodys(api, namespace):
    world = ResourceWorld(SHORT).on(api, namespace, SHORT)
    world.deploy()
    api.delete(ROLLOUTS, namespace, NAME)
    assert world.controller.tick() is None
