"""One rollout on either backend: a world of one plan, its resource, what must be the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.cluster.rollouts import manifest
from tests.unit.rollout_world import NAME, World

from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_plan, make_revision
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.store.rollouts import StoredRollouts
from tidemill.domain.rollout.model import Action, Command, Decision, Plan, Revision, Spec, State

__all__ = [
    "SHORT",
    "STEPS",
    "Embedded",
    "ResourceWorld",
    "Resources",
    "model",
    "outcome",
    "script",
    "stored",
    "without_evidence",
]

STEPS = [
    {"name": "c5", "weight": 500, "minEvents": 200, "maxSeconds": 3600},
    {"name": "c50", "weight": 5000, "gate": ["errors"], "minEvents": 600, "minSeconds": 1},
]
SHORT = {
    "traffic__settleSeconds": 0,
    "strategy__steps": STEPS,
    "strategy__scaleDownDelaySeconds": 1,
}


def model(number: int) -> dict[str, Any]:
    digest = "sha256:" + str(number) * 64
    tails = {"low": f"0.0{number}", "high": f"0.3{number}"}
    return {
        "name": NAME, "version": str(number), "digest": digest, "threshold": f"0.2{number}",
        "scoreTails": tails,
    }  # fmt: skip


class Resources:
    """Specs and states in a resource, made by the first specification that is proposed."""

    def __init__(
        self, objects: Any, namespace: str, world: World, settings: dict[str, Any]
    ) -> None:
        self.log: list[Decision] = []
        self._objects, self._namespace, self.settings = objects, namespace, settings
        self._rollouts = ResourceRollouts(
            objects, namespace, lambda: world.now, lambda _, decision: self.log.append(decision)
        )

    def propose(self, name: str, spec: Spec, **options: bool) -> None:
        if self._rollouts.spec(name) is None:
            body = manifest(
                self._namespace, name, model=model(int(spec.desired.version)), **self.settings
            )
            self._objects.create(ROLLOUTS, body)
        else:
            self._rollouts.propose(name, spec, **options)

    def edit(self, settings: dict[str, Any]) -> None:
        """Edit the resource, as its owner would: everything but the model."""
        self.settings = settings
        found = self._objects.get(ROLLOUTS, self._namespace, NAME)
        fresh = manifest(self._namespace, NAME, **settings)["spec"]
        self._objects.replace(ROLLOUTS, found | {"spec": fresh | {"model": found["spec"]["model"]}})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rollouts, name)


class ResourceWorld(World):
    """A world of one plan, whose revisions are named as on Kubernetes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.revisions, the_plan = self._read(settings)
        super().__init__(the_plan)

    def _read(self, settings: dict[str, Any]) -> tuple[dict[str, Revision], Plan]:
        specs = {
            f"v{number}": ModelRolloutSpec.model_validate(
                manifest("x", model=model(number), **settings)["spec"]
            )
            for number in (1, 2, 3, 4)
        }
        one = specs["v1"]
        assert one.analysis.inline
        plan = make_plan(one.strategy, one.analysis.inline, one.traffic.settle_seconds)
        return {name: make_revision(spec) for name, spec in specs.items()}, plan

    def edit(self, **changes: Any) -> None:
        """Change the plan, in the middle of whatever is going on."""
        self.settings = self.settings | changes
        _, self.plan = self._read(self.settings)
        if isinstance(self.store, Resources):
            self.store.edit(self.settings)
        else:
            self.change(plan=self.plan)

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


class Embedded(StoredRollouts):
    """The store of one machine, its whole log at hand."""

    @property
    def log(self) -> list[Decision]:
        return self.decisions(NAME)


def stored(world: ResourceWorld, api: KubeClient, namespace: str) -> list[Decision]:
    """Return the decisions that are in the resource's status."""
    return ResourceRollouts(api, namespace, lambda: world.now).decisions(NAME)


def without_evidence(log: list[Decision]) -> list[Decision]:
    """Return decisions as a status keeps them."""
    return [replace(decision, evidence=()) for decision in log]


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


def script(world: ResourceWorld, second: int) -> None:
    """Order a model that is well and, once it was promoted, one that is not."""
    if second == 2:
        world.want("v2")
    if second == 9:
        world.rates(v3=0.8)
        world.want("v3")
