"""The same scenario on the API server and in memory takes the same decisions, whatever fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.cluster.rollouts import MIRRORS, client, gateway, install, manifest
from tests.mortal import Fate, Killed, Mortal
from tests.unit.rollout_world import NAME, World

from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient, Manifest
from tidemill.adapters.kubernetes.resources import (
    ModelRolloutSpec,
    make_plan,
    make_revision,
)
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.rollout.model import Action, Command, Decision, Revision, Spec, State
from tidemill.errors import Conflict, Unavailable

STEPS = [
    {"name": "c5", "weight": 500, "minEvents": 200, "maxSeconds": 3600},
    {"name": "c50", "weight": 5000, "gate": ["errors"], "minEvents": 600, "minSeconds": 1},
]
SHORT = {
    "traffic__settleSeconds": 0,
    "strategy__steps": STEPS,
    "strategy__scaleDownDelaySeconds": 1,
}


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[KubeClient]:
    install(cluster)
    with client(cluster) as api:
        yield api


def model(number: int) -> dict[str, Any]:
    digest = "sha256:" + str(number) * 64
    tails = {"low": "0.1", "high": "0.3"}
    return {
        "name": NAME, "version": str(number), "digest": digest, "threshold": "0.25",
        "scoreTails": tails,
    }  # fmt: skip


class Resources:
    """Specs and states in a resource, made by the first specification that is proposed."""

    def __init__(
        self, objects: Any, namespace: str, world: World, settings: dict[str, Any]
    ) -> None:
        self.log: list[Decision] = []
        self._objects, self._namespace, self._settings = objects, namespace, settings
        self._rollouts = ResourceRollouts(
            objects, namespace, lambda: world.now, lambda _, decision: self.log.append(decision)
        )

    def propose(self, name: str, spec: Spec) -> None:
        if self._rollouts.spec(name) is None:
            body = manifest(
                self._namespace, name, model=model(int(spec.desired.version)), **self._settings
            )
            self._objects.create(ROLLOUTS, body)
        else:
            self._rollouts.propose(name, spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rollouts, name)


class ResourceWorld(World):
    """A world of one plan, whose revisions are named as on Kubernetes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        specs = {
            f"v{number}": ModelRolloutSpec.model_validate(
                manifest("x", model=model(number), **settings)["spec"]
            )
            for number in (1, 2, 3, 4)
        }
        self.revisions: dict[str, Revision] = {n: make_revision(s) for n, s in specs.items()}
        analysis = specs["v1"].analysis.inline
        assert analysis
        super().__init__(make_plan(specs["v1"], analysis))

    def on(self, objects: Any, namespace: str, settings: dict[str, Any]) -> ResourceWorld:
        self.store = Resources(objects, namespace, self, settings)
        self.restart()
        return self

    def rates(self, **errors: float) -> None:
        super().rates(**{self.revisions[name].revision: rate for name, rate in errors.items()})

    def want(self, name: str, **changes: Any) -> None:
        before = self.store.spec(NAME)
        generation = before.generation + 1 if before else 1
        command = before.command if before else None
        kept = {"command": command} | changes
        self.store.propose(NAME, Spec(generation, self.revisions[name], self.plan, **kept))

    def command(self, action: Action, name: str, step: str = "") -> None:
        self.commands += 1
        subject = self.revisions[name].revision
        self.change(command=Command(str(self.commands), action, subject, step))


def happy(world: ResourceWorld) -> None:
    """S1: two steps, promotion, the old servers gone."""
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    world.run(2)


def harmful(world: ResourceWorld) -> None:
    """S2: harm in the last step."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c50")
    world.rates(v2=0.9)
    world.run_until("rolling_back")
    world.run_until("stable")
    world.run(2)


def superseded(world: ResourceWorld) -> None:
    """S8: V3 during V2, then the stable one is wanted again."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.run_until("preparing")
    world.run_until("progressing")
    world.want("v1")
    world.run(6)


def queued(world: ResourceWorld) -> None:
    """S8: only the newest of those that wait is tried."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.want("v4")
    world.rates(v4=0.02)
    world.run_until("finalizing")
    world.run_until("progressing")
    world.run(3)


def commanded(world: ResourceWorld) -> None:
    """S9: pause, resume, stale approval, approval, promote, late abort, abort, retry."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.change(paused=True)
    world.run(2)
    world.change(paused=False)
    world.run(1)
    for action, about, step in (
        ("approve", "v3", ""),
        ("approve", "v2", "c50"),
        ("approve", "v2", "c5"),
        ("promote", "v2", ""),
    ):
        world.command(action, about, step)
        world.run(1)
    world.run_until("stable")
    world.command("abort", "v2")
    world.run(1)
    world.want("v3")
    world.run_until("progressing")
    world.command("abort", "v3")
    world.run_until("stable")
    world.command("retry", "v3")
    world.run_until("progressing")


def unseen(world: ResourceWorld) -> None:
    """S6: a canary whose counters cannot be read."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.traffic.unreadable = {world.revisions["v2"].revision}
    world.run(70)
    world.traffic.unreadable = set()
    world.run(5)


def shadowed(world: ResourceWorld) -> None:
    """S14: lost mirrors, one that agrees is promoted, one that does not meets no client."""
    world.traffic.differs = {
        world.revisions[name].revision: {"disagreement": rate}
        for name, rate in {"v2": 0.01, "v3": 0.3}.items()
    }
    world.traffic.lost = 0.2
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(20)
    assert world.step == "shadow"
    world.traffic.lost = 0.0
    world.run_until("progressing", step="c5", limit=120)
    world.run_until("stable")
    world.want("v3")
    world.run_until("rolling_back")
    world.run_until("stable")
    assert world.state.history[0].reason.startswith("harm in disagreement")


Scenario = Callable[[ResourceWorld], None]
QUEUE = {"strategy__onNewRevision": "QueueLatest"}
SHADOW = {
    "strategy__steps": [
        {"name": "shadow", "shadow": {"percent": 20}, "gate": ["disagreement"]},
        *STEPS,
    ],
    "analysis__inline__paired": [{"name": "disagreement", "event": "flip", "maxRate": "0.05"}],
}
APPROVED = {"strategy__steps": [STEPS[0] | {"approval": True}, STEPS[1]]}
SCENARIOS: list[tuple[Scenario, dict[str, Any]]] = [
    (happy, {}),
    (harmful, {}),
    (superseded, {}),
    (queued, QUEUE),
    (commanded, APPROVED),
    (unseen, {}),
    (shadowed, SHADOW),
]


def outcome(world: ResourceWorld) -> dict[str, Any]:
    """Return all that must be the same; generations are counted by the API server."""
    state: State = world.state
    attempt = state.attempt and replace(state.attempt, generation=0)
    return {
        "log": world.store.log,
        "state": replace(state, attempt=attempt),
        "route": world.gateway.route,
        "servers": set(world.servers.running),
        "told": world.releases.told,
        "failed": world.traffic.failed,
    }


def told(scenario: Scenario, settings: dict[str, Any]) -> dict[str, Any]:
    """Play a scenario in memory."""
    world = ResourceWorld(settings)
    scenario(world)
    assert len(world.store.log) > 3
    return outcome(world)


@pytest.mark.parametrize(
    ("scenario", "changes"), SCENARIOS, ids=lambda v: getattr(v, "__name__", "")
)
def test_the_resource_takes_the_decisions_of_memory(cluster, api, namespace, scenario, changes):
    settings = SHORT | changes
    gateway(cluster, namespace, *MIRRORS)
    world = ResourceWorld(settings).on(api, namespace, settings)
    scenario(world)
    assert outcome(world) == told(scenario, settings)


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


def stored(world: ResourceWorld, api: KubeClient, namespace: str) -> list[Decision]:
    return ResourceRollouts(api, namespace, lambda: world.now).decisions(NAME)


def without_evidence(log: list[Decision]) -> list[Decision]:
    return [replace(decision, evidence=()) for decision in log]


def test_a_storm_of_conflicts_and_lost_answers_changes_no_decision(api, namespace):
    storm = Storm(api)
    world = ResourceWorld(SHORT).on(api, namespace, SHORT)
    world.deploy()
    world.store = Resources(storm, namespace, world, SHORT)
    hands = Hands(world.servers, world.gateway, world.traffic, world.releases)
    clock = world.controller._clock
    world.controller = Stubborn(NAME, world.store, world.store, hands, clock, lambda: world.now)
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


def mortal(world: ResourceWorld, api: KubeClient, namespace: str, dies_at: int) -> Controller:
    """Return a new process whose every request to the API server and every act may be the last."""
    fate = Fate(dies_at)
    ports = (world.servers, world.gateway, world.traffic, world.releases)
    hands = Hands(*(Mortal(port, fate) for port in ports))
    store = Resources(Mortal(api, fate), namespace, world, SHORT)
    clock = world.controller._clock
    return Controller(NAME, store, store, hands, clock, lambda: world.now)


def script(world: ResourceWorld, second: int) -> None:
    if second == 2:
        world.want("v2")
    if second == 14:
        world.rates(v3=0.8)
        world.want("v3")


@pytest.mark.slow
def test_killed_at_every_request_it_takes_the_same_decisions(api, namespace):
    world, alone = ResourceWorld(SHORT).on(api, namespace, SHORT), ResourceWorld(SHORT)
    deaths = 0
    for one in (world, alone):
        one.want("v1")
    for second in range(24):
        for one in (world, alone):
            script(one, second)
            one.now += timedelta(seconds=1)
            one.traffic.send(200)
        alone.settle()
        for dies_at in itertools.count(1):
            try:
                victim = mortal(world, api, namespace, dies_at)
                while victim.tick() == 0.0:
                    pass
            except Killed:
                deaths += 1
            else:
                break
    ends = [(o.outcome, o.revision) for o in world.state.history]
    assert [how for how, _ in ends] == ["rolled_back", "promoted"]
    assert stored(world, api, namespace) == without_evidence(alone.store.log)
    found, expected = outcome(world), outcome(alone)
    found.pop("log")
    expected.pop("log")
    assert found == expected
    assert deaths > 300, deaths


def test_two_controllers_take_the_decisions_of_one(cluster, api, namespace):
    alone, shared = ResourceWorld(SHORT), ResourceWorld(SHORT).on(api, namespace, SHORT)
    for world in (alone, shared):
        world.want("v1")
    with client(cluster) as other:
        second_controller = mortal(shared, other, namespace, -1)
        for second in range(24):
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
