"""Retraining waits for a ModelRollout on a real API server, under the observer's role alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.rollouts import ROOT, bind, eventually, manifest
from tests.unit.rollout_world import NAME, World

from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_revision
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.domain.governor import Request
from tidemill.errors import Refused
from tidemill.wiring import Project

GRANTED = yaml.safe_load((ROOT / "charts/tidemill/files/rollout-observer-rules.yaml").read_text())
EXTRA = [
    *(("modelrollouts", verb) for verb in ("get", "watch", "create", "update", "patch", "delete")),
    *((kind, "list") for kind in ("analysispolicies", "deployments", "pods", "secrets")),
]


@pytest.fixture
def project(cluster, namespace, tmp_path, monkeypatch) -> Project:
    """A project with a store of its own, as an account that nothing is granted yet."""
    (tmp_path / "configs").mkdir()
    settings = yaml.safe_load((ROOT / "configs/base.yaml").read_text())
    settings["rollout"] |= {"target": "kubernetes", "kubernetes": {"namespace": namespace}}
    (tmp_path / "configs/base.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("KUBECONFIG", str(Path(cluster.user("observer", namespace).kubeconfig)))
    return Project.load(tmp_path)


@pytest.fixture
def granted(cluster, namespace, project) -> Project:
    """The project with the observer's role in force."""
    bind(cluster, namespace, "observer", GRANTED["namespace"])
    eventually(lambda: allowed(cluster, namespace, "modelrollouts", "list"))
    return project


def allowed(cluster: Any, namespace: str, plural: str, verb: str) -> bool:
    who = f"--as=system:serviceaccount:{namespace}:observer"
    said = cluster.kubectl("auth", "can-i", verb, plural, "-n", namespace, who, check=False)
    return "yes" in said


@pytest.fixture
def world(api: KubeClient, namespace: str) -> World:
    """A controller on a resource that serves version 1, its hands fakes."""
    api.create(ROLLOUTS, manifest(namespace))
    world = World()
    world.store = ResourceRollouts(api, namespace, lambda: world.now)
    world.restart()
    want(world, api, namespace, "1")
    world.run(4)
    return world


def want(world: World, api: KubeClient, namespace: str, version: str) -> None:
    """Order a version whose servers are healthy."""
    model = {"version": version, "digest": f"sha256:{version * 64}"}
    meta = {"name": NAME, "namespace": namespace}
    found = api.merge(ROLLOUTS, {"metadata": meta, "spec": {"model": model}})
    revision = make_revision(ModelRolloutSpec.model_validate(found["spec"])).revision
    world.traffic.rates[revision] = {"error": 0.02, "slow": 0.01}


def seen(project: Project) -> list[tuple[str, str]]:
    return [(one.name, one.in_flight) for one in project.survey()]


def decided(project: Project, commit: str) -> tuple[Request, str]:
    """Ask for a retraining by a commit, or decide again; return the request and the last reason."""
    asked = project.governor.request("ci", actor="ci", reason="code", key=commit)
    return asked, project.requests.decisions(asked.id)[-1].reason


def test_retraining_waits_from_the_order_to_the_end(granted, world, api, namespace):
    assert seen(granted) == [(NAME, "")]
    want(world, api, namespace, "2")
    asked, reason = decided(granted, "a")
    assert asked.state == "waiting"
    assert f"rollout {NAME} version 2 is wanted and has not begun" in reason
    world.run_until("progressing")
    assert decided(granted, "a")[1].startswith(
        f"in rollout {NAME} version 2 is progressing at step c5"
    )
    world.change(paused=True)
    world.run(2)
    reason = decided(granted, "a")[1]
    assert "version 2 is paused at step c5 (user): tidemill rollout status" in reason
    world.change(paused=False)
    world.command("abort", world.state.attempt.canary.revision)
    world.run(5)
    assert world.phase == "stable"
    (again,) = granted.governor.advance()
    assert (again.id, again.state) == (asked.id, "pending")


def test_a_rollout_counts_by_its_model_whatever_its_name(granted, api, namespace):
    api.create(ROLLOUTS, manifest(namespace, "upsell", model__name="upsell"))
    assert seen(granted) == []
    api.create(ROLLOUTS, manifest(namespace, "churn"))
    assert seen(granted) == [("churn", "version 1 is wanted and has not begun")]


def test_without_its_verb_nothing_is_trained(project, namespace):
    (rule,) = GRANTED["namespace"]
    assert (rule["resources"], rule["verbs"]) == (["modelrollouts"], ["list"]), "else: more tests"
    with pytest.raises(Refused, match="cannot list resource"):
        project.survey()
    asked, reason = decided(project, "a")
    assert asked.state == "waiting"
    assert "whether a rollout is in flight cannot be told" in reason
    assert 'cannot list resource "modelrollouts"' in reason
    by_hand = project.governor.request("manual", actor="ana", reason="I looked")
    assert by_hand.state == "pending"


@pytest.mark.parametrize(("plural", "verb"), EXTRA, ids=lambda part: part)
def test_nothing_else_is_allowed(cluster, granted, namespace, plural, verb):
    assert not allowed(cluster, namespace, plural, verb)
