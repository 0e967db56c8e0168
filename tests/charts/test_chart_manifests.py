"""What the chart renders: valid for every Kubernetes it takes, restricted, and as last reviewed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts import schemas
from tests.charts.profiles import MODEL, RENDERED, ROLLOUT, profile
from tests.charts.rendering import CHART, ROOT, Object, merged, render, template

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = "TIDEMILL_TEST_UPDATE_SNAPSHOTS"
SAVED = ("default", "small", "production")
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete"}
UNITS = {"": 1.0, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}


@pytest.mark.parametrize("name", SAVED)
def test_it_renders_as_reviewed(name: str) -> None:
    path = SNAPSHOTS / f"{name}.yaml"
    found = template(RENDERED[name])
    if os.environ.get(UPDATE):
        path.write_text(found)
    assert path.read_text() == found, f"if that is meant: {UPDATE}=1 pytest tests/charts"


@pytest.mark.parametrize("name", RENDERED)
def test_every_supported_kubernetes_takes_it(name: str, kubernetes: Path, programs: Path) -> None:
    assert schemas.check(programs, kubernetes, template(RENDERED[name])) == []


def test_the_check_finds_an_unknown_field(kubernetes: Path, programs: Path) -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    (found,) = schemas.check(programs, kubernetes, json.dumps(wrong))
    assert "'port' not allowed" in found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield kind and name, and specification, of every pod that objects make."""
    for found in objects:
        name = f"{found['kind']}/{found['metadata']['name']}"
        spec = found.get("spec", {})
        if found["kind"] == "Pod":
            yield name, spec
        elif found["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
        elif "template" in spec:
            yield name, spec["template"]["spec"]


@pytest.mark.parametrize("name", RENDERED)
def test_every_pod_is_restricted(name: str) -> None:
    for pod, spec in pods(render(RENDERED[name])):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, pod
        assert security["runAsUser"] == 10001, pod
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert spec["enableServiceLinks"] is False, pod
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), pod
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, pod


def test_four_parts_talk_to_the_api() -> None:
    objects = render(RENDERED["everything"])
    tokens = {pod for pod, spec in pods(objects) if spec["automountServiceAccountToken"]}
    assert tokens == {
        "Deployment/tidemill-controller",
        "Deployment/tidemill-judge",
        "StatefulSet/tidemill-retrain",
        *(f"CronJob/tidemill-monitor-{model}" for model in ("churn", "upsell")),
    }
    bound = {
        subject["name"]
        for found in objects
        if found["kind"].endswith("RoleBinding")
        for subject in found["subjects"]
    }
    parts = {f"tidemill-{part}" for part in ("controller", "judge", "monitor", "retrain")}
    assert bound == parts | {"pipeline-runner"}
    accounts = [found for found in objects if found["kind"] == "ServiceAccount"]
    assert not any(found["automountServiceAccountToken"] for found in accounts)
    used = {spec["serviceAccountName"] for _, spec in pods(objects)}
    assert used == {found["metadata"]["name"] for found in accounts}, "one each"


def variables(values: dict[str, Any], pod: str) -> dict[str, str]:
    """Return what a pod is told of rollouts, over what its ConfigMap says."""
    found = dict(pods(render(values)))[pod]["containers"][0]["env"]
    return {one["name"]: one["value"] for one in found if "ROLLOUT" in one["name"]}


@pytest.mark.parametrize(
    "pod",
    [
        "StatefulSet/tidemill-retrain",
        "CronJob/tidemill-monitor-churn",
        "Deployment/tidemill-controller",
    ],
)
def test_rollouts_are_looked_for_on_the_cluster_unless_the_settings_say_otherwise(pod: str) -> None:
    target, namespace = "TIDEMILL_ROLLOUT__TARGET", "TIDEMILL_ROLLOUT__KUBERNETES__NAMESPACE"
    given = RENDERED["everything"]
    assert variables(given, pod) == {target: '"kubernetes"', namespace: '"ml"'}
    rollout = {"target": "local", "kubernetes": {"namespace": "models"}}
    other = given | {"settings": given["settings"] | {"rollout": rollout}}
    assert variables(other, pod) == {target: '"local"', namespace: '"models"'}


def test_the_pods_of_a_triggered_run_reach_mlflow_from_their_namespace() -> None:
    def told(values: dict[str, Any]) -> list[str]:
        pod = dict(pods(render(values)))["StatefulSet/tidemill-retrain"]
        env = pod["containers"][0]["env"]
        return [one["value"] for one in env if one["name"] == "TIDEMILL_REGISTRY__URI"]

    given = RENDERED["everything"]
    assert told(given) == ['"http://tidemill-mlflow.ml:5000"']
    own = given["settings"] | {"registry": {"uri": "http://mlflow.example.com"}}
    assert told(given | {"mlflow": {"enabled": False}, "settings": own}) == []


@pytest.mark.parametrize(("scope", "kind"), [("Namespace", "Role"), ("Cluster", "ClusterRole")])
def test_the_scope_decides_where_the_role_holds(scope: str, kind: str) -> None:
    objects = render(RENDERED["everything"] | {"controller": {"scope": scope}})
    roles = {
        found["kind"]
        for found in objects
        for rule in found.get("rules", [])
        if "modelrollouts/status" in rule["resources"]
    }
    assert roles == {kind}
    (deployment,) = [
        found["spec"]["template"]["spec"]["containers"][0]["args"]
        for found in objects
        if found["metadata"]["name"] == "tidemill-controller" and found["kind"] == "Deployment"
    ]
    assert ("--namespace" in deployment) is (scope == "Namespace")


def test_no_secret_is_made() -> None:
    assert not [found for found in render(RENDERED["everything"]) if found["kind"] == "Secret"]


def quantity(text: str | int) -> float:
    number = str(text).rstrip("MGim")
    return float(number) * UNITS[str(text)[len(number) :]]


def requests(values: Object) -> list[Object]:
    """Return what every pod asks for that may run at one moment, a canary's servers included."""
    objects = render(values)
    count = {
        f"{found['kind']}/{found['metadata']['name']}": found["spec"].get("replicas", 1)
        for found in objects
        if "spec" in found
    }
    wanted = [
        container["resources"]["requests"]
        for pod, spec in pods(objects)
        for container in spec["containers"] * count[pod]
    ]
    for runtime in (o["spec"]["runtime"] for o in objects if o["kind"] == "ModelRollout"):
        wanted += 2 * runtime["replicas"] * [runtime["resources"]["requests"]]
    return wanted


def test_every_replica_counts() -> None:
    base = profile("small")
    more = merged(base, {"controller": {"replicas": 2}})
    twice = MODEL | {"rollout": ROLLOUT | {"runtime": {"replicas": 2}}}
    assert len(requests(more)) == len(requests(base)) + 1
    assert len(requests(base | {"models": [twice]})) == len(requests(base)) + 2


def test_the_small_profile_fits_on_two_cpus_and_four_gib() -> None:
    wanted = requests(profile("small"))
    assert sum(quantity(one["cpu"]) for one in wanted) <= 2
    assert sum(quantity(one["memory"]) for one in wanted) <= 4 * 2**30


def test_what_answers_requests_gives_way_to_nothing() -> None:
    """Model servers are above every part: MLflow may not take their place on a full node."""
    objects = render(RENDERED["everything"])
    value = {o["metadata"]["name"]: o["value"] for o in objects if o["kind"] == "PriorityClass"}
    (server,) = (o["spec"]["runtime"] for o in objects if o["kind"] == "ModelRollout")
    parts = {value[spec["priorityClassName"]] for _, spec in pods(objects)}
    assert value[server["priorityClassName"]] > max(parts)
    assert set(value.values()) == parts | {value[server["priorityClassName"]]}


def test_servers_are_placed_and_pulled_like_the_parts_unless_their_rollout_says_otherwise() -> None:
    fields = ("imagePullSecrets", "nodeSelector", "tolerations")
    given = RENDERED["everything"]

    def runtime(values: Object) -> Object:
        (found,) = (o["spec"]["runtime"] for o in render(values) if o["kind"] == "ModelRollout")
        return dict(found)

    for _, spec in pods(render(given)):
        assert {field: spec[field] for field in fields} == {field: given[field] for field in fields}
    assert {f: runtime(given)[f] for f in fields} == {field: given[field] for field in fields}
    own = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "priorityClassName": "mine"}
    model = given["models"][0]
    other = model | {"rollout": model["rollout"] | {"runtime": own}}
    found = runtime(given | {"models": [other]})
    assert {field: found[field] for field in own} == own
    assert not {*fields, "priorityClassName"} & runtime(RENDERED["small"]).keys(), "no new revision"


def test_names_of_many_releases_do_not_meet() -> None:
    """Objects of the whole cluster carry the namespace in their name."""
    for found in render(RENDERED["everything"]):
        if found["kind"] in ("ClusterRole", "ClusterRoleBinding", "PriorityClass"):
            assert "-ml" in found["metadata"]["name"], found["kind"]
            assert "namespace" not in found["metadata"]
        else:
            assert found["metadata"]["namespace"] == "ml", found["kind"]


def test_an_image_is_named_by_digest_where_there_is_one() -> None:
    digest = "sha256:" + "3" * 64
    given: dict[str, Any] = RENDERED["default"] | {
        "imageRegistry": "registry.example.com/ml",
        "images": {"control": {"digest": digest, "tag": "7"}, "registry": {"tag": "8"}},
    }
    images = {
        container["image"] for _, spec in pods(render(given)) for container in spec["containers"]
    }
    here = "registry.example.com/ml/tidemill"
    assert images == {f"{here}/control@{digest}", f"{here}/registry:8"}
    assert yaml.safe_load(template(given).split("---")[1])


def read_rules(who: str) -> dict[str, list[dict[str, Any]]]:
    text = (CHART / f"files/rollout-{who}-rules.yaml").read_text()
    rules: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return rules


def test_the_docs_show_the_rights() -> None:
    places = {"controller": "scope", "judge": "home", "observer": "home", "deployer": "home"}
    granted = {
        (who, ", ".join(rule["verbs"]), ", ".join(rule["resources"]), where)
        for who, place in places.items()
        for part, rules in read_rules(who).items()
        for where in (place if part == "namespace" else part,)
        for rule in rules
    }
    page = (ROOT / "docs/kubernetes/install.md").read_text()
    row = re.compile(
        r"^\| (\w+) \| ([a-z, ]+?) ([a-z/]+(?:, [a-z/]+)*)(?: \(.+\))? \| (scope|home|cluster) \|$",
        re.M,
    )
    shown = set()
    for who, said, resources, where in row.findall(page):
        words = [*said.split(", "), *resources.split(", ")]
        verbs = [word for word in words if word in VERBS]
        shown.add((who, ", ".join(verbs), ", ".join(words[len(verbs) :]), where))
    assert shown == granted
