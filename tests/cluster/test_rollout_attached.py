"""Servers that somebody runs hand over to a rollout on their own route; nothing is played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.rollouts import ATTACH, eventually, manifest
from tests.cluster.served import (
    INFER,
    NAME,
    PATIENCE,
    RUNTIME,
    SLOW,
    World,
    promoted,
    scraped,
    served_world,
)

from tidemill.adapters.kubernetes.client import HTTP_ROUTES, ROLLOUTS
from tidemill.adapters.kubernetes.pods import PORT, server_pod
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_revision

pytestmark = pytest.mark.slow

STEPS = [{"name": "c20", "weight": 2000, "gate": ["slow"], "minEvents": 50}]
METRICS = [{"name": "slow", "event": "slow", "passRatio": "2"}]
THEIRS = {"app": "legacy"}


class AttachedWorld(World):
    """A Deployment, a Service and an HTTPRoute that are somebody else's."""

    def run_theirs(self, model: dict[str, Any]) -> None:
        """Serve a model as its team did before there was a rollout."""
        body = manifest(self.namespace, model=model, runtime=RUNTIME)["spec"]
        pod = server_pod(make_revision(ModelRolloutSpec.model_validate(body)), THEIRS)
        template = {"metadata": {"labels": THEIRS}, "spec": pod}
        selector = {"matchLabels": THEIRS}
        self.apply(
            "apps/v1",
            "Deployment",
            "legacy",
            {"spec": {"selector": selector, "template": template}},
        )
        ports = [{"name": "http", "port": 80, "targetPort": PORT}]
        self.apply("v1", "Service", "legacy", {"spec": {"selector": THEIRS, "ports": ports}})
        ready = ("deployment/legacy", "--for=condition=Available", "--timeout=300s")
        self.cluster.kubectl("wait", "-n", self.namespace, *ready)
        rule = {
            "name": "infer",
            "matches": [{"path": {"type": "Exact", "value": INFER}}],
            "backendRefs": [{"name": "legacy", "port": 80, "weight": 10_000}],
        }
        spec = {"parentRefs": [{"name": "gateway"}], "rules": [rule]}
        self.apply(HTTP_ROUTES.api, "HTTPRoute", "api", {"spec": spec})
        # The gateway takes the route up a moment after it is written.
        eventually(lambda: self.who_serves("1") == {"1"}, PATIENCE)

    def weigh_theirs(self, weight: int) -> None:
        """Change the weight of their own backend, as the route's owner."""
        where = "/spec/rules/0/backendRefs/0/weight"
        patch = json.dumps([{"op": "replace", "path": where, "value": weight}])
        self.cluster.kubectl(
            "patch", "httproute", "api", "-n", self.namespace, "--type=json", "-p", patch
        )

    def route(self) -> Any:
        return self.api.get(HTTP_ROUTES, self.namespace, "api")["spec"]

    def serves(self, version: str, more: int = 20) -> None:
        """Wait until a version has answered so often again."""
        before = self.answered[version]
        eventually(lambda: self.answered[version] >= before + more, PATIENCE)

    def who_serves(self, version: str) -> set[str]:
        """Return who answers new clients until a version has."""
        with self.clients():
            self.serves(version)
        return self.answered.keys() - {"failed"}


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[AttachedWorld]:
    spec = {
        "traffic": ATTACH | {"settleSeconds": 1},
        "strategy__steps": STEPS,
        "analysis__inline": {"metrics": METRICS},
    }
    with served_world(
        cluster, node, namespace, tmp_path, scraped, SLOW, AttachedWorld, **spec
    ) as world:
        yield world


def test_a_team_hands_over_to_a_rollout_and_takes_its_route_back(world: AttachedWorld) -> None:
    theirs, first, second = (world.release(v, -1.0 - n / 1e3) for n, v in enumerate("123"))
    world.run_theirs(theirs)
    before = world.route()
    with world.clients():
        world.serves("1")
        world.want(first)
        world.wait_for_deployment()
        world.serves("2")
        world.serves("1")
        world.weigh_theirs(0)
        world.want(second)
        status = world.wait(lambda s: promoted(s) and s["phase"] == "stable" and s.get("history"))
        assert status["history"][0]["outcome"] == "promoted"
        assert ("weight", 2000) in [(d["action"], d["weight"]) for d in status["decisions"]]
        world.serves("3")
        world.weigh_theirs(10_000)
        world.serves("1")
    assert world.answered["failed"] == 0
    world.api.delete(ROLLOUTS, world.namespace, NAME)
    eventually(lambda: not world.api.select(ROLLOUTS, world.namespace, {}))
    assert world.route() == before
    # The gateway takes the route back a moment after it is written.
    eventually(lambda: world.who_serves("1") == {"1"}, PATIENCE)
