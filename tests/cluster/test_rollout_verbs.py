"""`tidemill rollout … --on kubernetes` on a real API server, under the deployer's role alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.bundles import make_bundle
from tests.cluster.delivery import until
from tests.cluster.rollouts import MIRRORS, ROOT, SPEC, bind, gateway, manifest
from tests.command_line import Line
from tests.unit.rollout_world import NAME, World

from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS, KubeClient, NoKind, Resource
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.errors import Conflict
from tidemill.testing.registry import MemoryRegistry
from tidemill.wiring import Project

RULES = yaml.safe_load((ROOT / "charts/tidemill/files/rollout-deployer-rules.yaml").read_text())
DIGEST = "registry.test/tidemill/{}@sha256:" + "1" * 64
STEPS = [
    {"name": "c5", "weight": 500, "min_events": 300, "approval": True},
    {"name": "c50", "weight": 5000, "gate": ["errors"], "min_events": 600},
]
SHADOW = tuple(
    part
    for setting in (
        "rollout.kubernetes.gateway=gateway",
        "rollout.settle_seconds=1",
        "rollout.steps=[{name: try, weight: 0, shadow: {percent: 20}, gate: [flips]},"
        " {name: c50, weight: 5000, min_events: 600}]",
        "rollout.analysis.metrics=[{name: errors, event: error, max_rate: 0.2, alpha_share: 0.6}]",
        "rollout.analysis.paired=[{name: flips, event: flip, max_rate: 0.05, alpha_share: 0.2}]",
    )
    for part in ("--set", setting)
)
"""A plan that begins with a shadow step, at a Gateway that is there."""


def grant(cluster: Any, namespace: str, account: str, rules: list[dict[str, Any]]) -> Path:
    """Let an account do exactly this; return its kubeconfig."""
    access = cluster.user(account, namespace)
    bind(cluster, namespace, account, rules)
    return Path(access.kubeconfig)


@pytest.fixture
def deployer(cluster, api, namespace, monkeypatch) -> Path:
    """Ask as an account that has the deployer's role and nothing else."""
    path = grant(cluster, namespace, "deployer", RULES["namespace"])
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def project(tmp_path, namespace, monkeypatch) -> Project:
    """A project whose rollouts run on the cluster, with three versions in its registry."""
    root = tmp_path / "project"
    (root / "configs").mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "configs/base.yaml").read_text())
    settings["execution"]["images"] = {name: DIGEST.format(name) for name in ("serve", "registry")}
    settings["rollout"] |= {
        "target": "kubernetes",
        "kubernetes": {"namespace": namespace, "gateway": "public"},
        "steps": STEPS,
        "scale_down_seconds": 1,
    }
    (root / "configs/base.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("TIDEMILL_PROJECT", str(root))
    project = Project.load(root)
    registry = MemoryRegistry(tmp_path / "registry")
    for number in range(3):
        bundle = make_bundle(tmp_path / f"b{number}", NAME, 0.001 * (number + 1))
        project.signer.sign(bundle)
        registry.publish(bundle, {}, "")
    monkeypatch.setattr(Project, "registry", registry)
    return project


@pytest.fixture
def world(api, namespace) -> World:
    """A controller on the resource, its hands fakes."""
    world = World()
    world.store = ResourceRollouts(api, namespace, lambda: world.now)
    world.restart()
    return world


@pytest.fixture
def line(capsys) -> Line:
    return Line(capsys, "rollout")


def resource(api: KubeClient, namespace: str) -> dict[str, Any]:
    return api.get(ROLLOUTS, namespace, NAME)


def healthy(world: World, revision: str) -> None:
    world.traffic.rates[revision] = {"error": 0.02, "slow": 0.01}


def told(world: World) -> str:
    return "\n".join(decision.reason for decision in world.store.decisions(NAME))


def test_start_makes_the_resource_then_changes_it(api, namespace, deployer, project, line):
    first = line.json("start", f"{NAME}/1")
    assert (first["model"], first["version"]) == (NAME, "1")
    made = resource(api, namespace)
    registered = project.revision(f"{NAME}/1")
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "tidemill"}
    assert made["spec"]["model"]["digest"] == registered.digest
    assert float(made["spec"]["model"]["threshold"]) == pytest.approx(registered.threshold)
    assert made["spec"]["runtime"]["image"] == DIGEST.format("serve")
    assert made["spec"]["traffic"]["parentRefs"][0]["name"] == "public"
    out, _ = line("start", NAME, "--set", "rollout.kubernetes.replicas=5")
    assert f"{NAME}/3" in out
    changed = resource(api, namespace)
    assert changed["metadata"]["generation"] == 2
    assert changed["spec"]["runtime"]["replicas"] == 5
    assert changed["spec"]["model"]["version"] == "3"
    line("start", NAME, "--set", "rollout.kubernetes.replicas=6")
    assert resource(api, namespace)["spec"]["runtime"]["replicas"] == 6, "the same version again"
    _, err = line("watch", "--timeout", "0.1", code=4)
    assert "kubectl get pods" in err, "no controller has taken it up"


def test_a_number_that_was_scaled_is_not_taken_back(
    cluster, api, namespace, deployer, project, line
):
    line("start", f"{NAME}/1")
    cluster.kubectl("scale", f"mro/{NAME}", "--replicas=7", "-n", namespace)
    line("start", f"{NAME}/3", "--set", "rollout.kubernetes.replicas=6")
    spec = resource(api, namespace)["spec"]
    assert (spec["model"]["version"], spec["runtime"]["replicas"]) == ("3", 7)


def test_every_verb_from_the_first_deployment_to_a_retry(
    api, namespace, deployer, project, world, line
):
    one = line.json("start", f"{NAME}/1")["revision"]
    healthy(world, one)
    world.run(4)
    lines = [json.loads(text) for text in line("watch", "--json")[0].splitlines()]
    assert [entry.get("action") for entry in lines[:-1]] == ["initialize", "deploy"]
    assert lines[-1] == {"outcome": "promoted", "revision": one}
    two = line.json("start", f"{NAME}/2")["revision"]
    healthy(world, two)
    world.run_until("progressing")
    out, err = line("watch", "--timeout", "0.1", code=4)
    assert "step c5 begins" in out
    assert "waits for approval" in err or "of 300 requests" in err
    assert line.json("pause") == {"action": "pause", "revision": two, "generation": 3}
    world.run(2)
    assert world.phase == "paused"
    line("resume")
    world.run(1)
    assert world.phase == "progressing"
    line("approve", "c50")
    world.run(1)
    assert "the rollout is at step c5, not c50" in told(world)
    line("approve", "c5")
    world.run_until("progressing", step="c50")
    found = line.json("status")
    assert found["state"]["attempt"]["canary"]["revision"] == two
    assert found["problem"] == ""
    assert "errors" in line("status")[0]
    line("promote")
    world.run_until("stable")
    assert "promoted" in line("watch")[0]
    three = line.json("start", f"{NAME}/3")["revision"]
    healthy(world, three)
    world.run_until("progressing")
    out, _ = line("abort")
    assert f"ordered: abort {three}" in out
    world.run(5)
    out, err = line("watch", code=3)
    assert "abort was asked for" in err
    assert "tidemill rollout retry" in err
    line("start", f"{NAME}/3", code=3)
    line("retry")
    world.run_until("progressing")
    assert world.state.attempt.canary.revision == three
    line("abort")
    world.run(5)
    _, err = line("approve", code=0)
    world.run(1)
    assert "no rollout of" in told(world)


def test_a_shadow_step_is_ordered_and_followed(
    cluster, api, namespace, deployer, project, world, line
):
    gateway(cluster, namespace, *MIRRORS)
    one = line.json("start", f"{NAME}/1", *SHADOW)["revision"]
    healthy(world, one)
    world.run(4)
    two = line.json("start", f"{NAME}/2", *SHADOW)["revision"]
    healthy(world, two)
    world.traffic.differs = {two: {"flips": 0.01}}
    world.run_until("progressing", step="try")
    world.run(5)
    found = line.json("status")
    assert (found["state"]["weight"], found["state"]["mirror"]) == (0, 2000)
    assert found["state"]["attempt"]["evidence"]["pairing"]["matched"] > 0
    seen, _ = line("status")
    for part in ("mirrored", "20 %", "flips", "pairs of"):
        assert part in seen
    line("pause")
    world.run(1)
    line("resume")
    world.run_until("progressing", step="c50")
    world.run_until("stable")
    assert "step try begins, 20 % mirrored" in line("watch")[0]

    three = line.json("start", f"{NAME}/3", *SHADOW)["revision"]
    healthy(world, three)
    world.traffic.differs[three] = {"flips": 0.5}
    world.run_until("rolling_back")
    world.run(4)
    _, err = line("watch", code=3)
    assert "harm in flips" in err


def test_a_shadow_step_that_the_gateway_may_not_mirror_is_told(
    cluster, api, namespace, deployer, project, world, line
):
    gateway(cluster, namespace)
    line("start", f"{NAME}/1", *SHADOW)
    assert line.json("status")["problem"] == "", "nobody has looked at the Gateway yet"
    world.store.acknowledge(NAME)
    assert "it may not mirror" in line.json("status")["problem"]
    _, err = line("watch", code=3)
    assert "it may not mirror" in err
    line("start", f"{NAME}/1")
    world.run(4)
    assert "promoted" in line("watch")[0], "without a shadow step it can run"


def test_a_step_is_skipped_and_the_glass_broken_with_a_reason(
    api, namespace, deployer, project, world, line
):
    night = "[{days: [mon], start: '00:00', end: '00:00', time_zone: UTC}]"
    one = line.json("start", f"{NAME}/1")["revision"]
    healthy(world, one)
    world.run(4)
    two = line.json("start", f"{NAME}/2", "--set", f"rollout.freeze={night}")["revision"]
    healthy(world, two)
    world.run(10)
    assert world.phase == "preparing"
    for refused in ((), ("--reason", " ")):
        _, err = line("break-glass", *refused, code=2)
        assert "reason" in err
    line("break-glass", "--reason", "INC-7: errors of stable; Ada")
    world.run_until("progressing", step="c5")
    assert resource(api, namespace)["spec"]["control"]["reason"] == "INC-7: errors of stable; Ada"
    line("skip", "c50")
    world.run(1)
    assert "skip: the rollout is at step c5, not c50" in told(world)
    line("skip", "c5")
    world.run_until("progressing", step="c50")
    world.run_until("stable")
    releases = [(r.kind, r.reason) for r in world.releases.told[1:]]
    assert releases == [
        ("unfrozen", "INC-7: errors of stable; Ada"),
        ("promoted", "the gates passed, but not of c5"),
    ]


VERBS = [
    *("approve", "skip", "resume", "promote", "abort", "retry", "pause"),
    "break-glass --reason why",
]


@pytest.mark.parametrize("words", VERBS)
def test_an_order_about_nothing(deployer, project, line, words):
    verb, *options = words.split()
    _, err = line(verb, *options, code=1 if verb == "pause" else 3)
    assert "tidemill rollout" in err


def test_a_resource_of_somebody_elses_keeps_its_plan(api, namespace, deployer, project, line):
    api.create(ROLLOUTS, manifest(namespace))
    line("start", f"{NAME}/2")
    spec = resource(api, namespace)["spec"]
    assert spec["model"]["version"] == "2"
    assert {k: spec[k]["replicas"] for k in ("runtime",)} == {"runtime": 2}
    assert spec["runtime"]["image"] == SPEC["runtime"]["image"]
    assert [s["name"] for s in spec["strategy"]["steps"]] == ["c5", "c50"]
    assert set(line.json("plan")["expected_seconds"]) == {"c5", "c50"}
    assert line.json("plan")["plan"]["steps"][0]["approval"] is False, "the resource's, not ours"


def test_plan_needs_no_resource(deployer, project, line):
    made = line.json("plan")["plan"]
    assert [step["approval"] for step in made["steps"]] == [True, False]
    out, _ = line("plan", "--on", "local")
    assert "c50" in out


def test_what_cannot_run_is_said_and_can_be_aborted(api, namespace, deployer, project, world, line):
    head = {"apiVersion": POLICIES.api, "kind": POLICIES.kind}
    policy = {"metadata": {"name": "default", "namespace": namespace}}
    api.create(POLICIES, head | policy | {"spec": SPEC["analysis"]["inline"]})
    api.create(ROLLOUTS, manifest(namespace, analysis={"policyRef": {"name": "default"}}))
    healthy(world, world.store.spec(NAME).desired.revision)
    world.run(4)
    canary = line.json("start", f"{NAME}/2")["revision"]
    healthy(world, canary)
    world.run_until("progressing")
    api.delete(POLICIES, namespace, "default")
    _, err = line("watch", code=3)
    assert "there is no AnalysisPolicy default" in err
    assert "there is no AnalysisPolicy default" in line("status")[0]
    line("pause")
    world.run(1)
    assert world.phase == "paused"
    line("abort")
    world.run(4)
    assert world.state.history[0].reason == "abort was asked for"


def test_settings_that_make_no_resource_are_named(deployer, project, line):
    _, err = line("start", NAME, "--set", "rollout.kubernetes.gateway=''", code=2)
    assert "rollout.kubernetes.gateway is empty" in err
    _, err = line("start", NAME, "--set", 'execution.images={serve: "tidemill/serve:1.0"}', code=2)
    assert "execution.images.serve is 'tidemill/serve:1.0', expected an image by digest" in err
    _, err = line("start", NAME, "--set", "rollout.max_gap=0.055", code=2)
    assert "whole number of percents" in err
    _, err = line("status", "--on", "mars", code=2)
    assert "'local' or 'kubernetes', not on 'mars'" in err


def test_who_may_not_is_told_what_is_missing(cluster, api, namespace, project, line, monkeypatch):
    path = grant(cluster, namespace, "nobody", [])
    monkeypatch.setenv("KUBECONFIG", str(path))
    _, err = line("status", code=3)
    for part in ('cannot get resource "modelrollouts"', namespace, "tidemill-rollout-deployer"):
        assert part in err
    assert "Traceback" not in err


def test_a_cluster_without_the_definitions(api, namespace):
    absent = Resource("absent.tidemill.dev/v1", "Absent", "absents")
    with pytest.raises(NoKind, match=r"no resources of absent\.tidemill\.dev"):
        api.get(absent, namespace, "x")


def test_a_cluster_that_is_away(project, line, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    _, err = line("status", code=2)
    assert f"there is no kubeconfig {tmp_path / 'absent'}" in err
    assert "Errno" not in err
    body = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "away").write_text(yaml.safe_dump(body))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "away"))
    _, err = line("status", code=1)
    assert "the Kubernetes API at https://127.0.0.1:1 does not answer" in err
    assert "kubectl cluster-info" in err


NEEDS = {
    ("modelrollouts", "get"): ("status",),
    ("modelrollouts", "create"): ("start", f"{NAME}/1"),
    ("modelrollouts", "update"): ("start", f"{NAME}/2"),
    ("analysispolicies", "get"): ("plan",),
}
"""What is refused when a verb is taken away."""


def test_the_table_of_verbs_is_complete():
    granted = {
        (r, v) for rule in RULES["namespace"] for r in rule["resources"] for v in rule["verbs"]
    }
    assert granted == set(NEEDS)


@pytest.mark.parametrize(("plural", "verb"), NEEDS, ids=lambda part: part)
def test_each_verb_is_needed(cluster, api, namespace, project, line, monkeypatch, plural, verb):
    rules = [
        rule | {"verbs": verbs}
        for rule in RULES["namespace"]
        if (verbs := [v for v in rule["verbs"] if (rule["resources"], v) != ([plural], verb)])
    ]
    if verb != "create":
        analysis = {"policyRef": {"name": "default"}} if plural != "modelrollouts" else None
        changes = {"analysis": analysis} if analysis else {}
        api.create(ROLLOUTS, manifest(namespace, **changes))
    monkeypatch.setenv("KUBECONFIG", str(grant(cluster, namespace, "less", rules)))
    _, err = line(*NEEDS[plural, verb], code=3)
    assert f'cannot {verb} resource "{plural}"' in err


EXTRA = [
    ("list", "modelrollouts.serving.tidemill.dev"),
    ("delete", "modelrollouts.serving.tidemill.dev"),
    ("update", "modelrollouts.serving.tidemill.dev/status"),
    ("update", "analysispolicies.serving.tidemill.dev"),
    ("create", "deployments.apps"),
    ("get", "pods"),
    ("get", "secrets"),
    ("create", "pods/exec"),
]


@pytest.mark.parametrize(("verb", "kind"), EXTRA, ids=lambda part: part)
def test_nothing_else_is_allowed(cluster, deployer, namespace, verb, kind):
    plural, _, sub = kind.partition("/")
    asked = [verb, plural, *(["--subresource", sub] if sub else []), "-n", namespace]
    who = f"--as=system:serviceaccount:{namespace}:deployer"

    def may(*words: str) -> str:
        told = cluster.kubectl("auth", "can-i", *words, who, check=False).split()
        return told[0] if told else ""

    granted = ["get", "modelrollouts.serving.tidemill.dev", "-n", namespace]
    until(lambda: may(*granted) == "yes", "the role in force")
    assert may(*asked) == "no"


def test_two_starts_at_once_are_two_generations(api, namespace, deployer, project):
    with project.desk() as desk:
        desk.start(f"{NAME}/1")
        spec = desk.spec()
        wish = desk.kept.wish(NAME, project.revision(f"{NAME}/2"))
        desk.kept.propose(NAME, replace(wish, generation=spec.generation + 1))
        with pytest.raises(Conflict):
            desk.kept.propose(NAME, replace(wish, generation=spec.generation + 1))
        desk.start(f"{NAME}/3")
        assert desk.spec().generation == 3
        assert desk.spec().desired.version == "3"
