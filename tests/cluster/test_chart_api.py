"""What the API server says to the rendered chart, and to the people whose roles it adds to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.profiles import HPA, MODEL, ONE_MODEL, RENDERED, ROLLOUT
from tests.charts.rendering import CHART, render, template
from tests.cluster import crds, rollouts
from tests.cluster.access import Access, Cluster
from tests.cluster.build import CannotBuild
from tests.refusal import NO_CLUSTER, refuse

PEOPLE = ("view", "edit")


@pytest.fixture(scope="module")
def kinds(definitions: Cluster, programs: object) -> Cluster:
    """The cluster with every kind that the chart makes."""
    try:
        files = [
            part
            for path in (*crds.prometheus_operator(), crds.keda())
            for part in ("--filename", path)
        ]
    except CannotBuild as reason:
        refuse(NO_CLUSTER, reason)
    definitions.kubectl("apply", "--server-side", *files)
    definitions.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=300s")
    return definitions


@pytest.mark.parametrize("name", RENDERED)
def test_the_api_server_takes_it(kinds: Cluster, namespace: str, name: str) -> None:
    restricted = "pod-security.kubernetes.io/warn=restricted"
    kinds.kubectl("label", "namespace", namespace, restricted)
    rendered = template(RENDERED[name], f"--namespace={namespace}", "--skip-tests")
    wanted = sum(1 for found in yaml.safe_load_all(rendered) if found)
    apply = ("apply", "--dry-run=server", "--validate=strict", "--filename=-")
    said = kinds.kubectl(*apply, stdin=rendered, check=False).splitlines()
    assert [line for line in said if "(server dry run)" not in line] == []
    assert len(said) == wanted


@pytest.fixture(scope="module")
def people(kinds: Cluster) -> Iterator[tuple[str, dict[str, Access]]]:
    """A namespace, and who has the cluster's roles there."""
    if not kinds.controllers:
        refuse(NO_CLUSTER, "nothing puts aggregated roles together here")
    namespace = kinds.namespace()
    roles = [
        found
        for found in render(RENDERED["default"])
        if found["kind"] == "ClusterRole" and found["metadata"]["name"].endswith(PEOPLE)
    ]
    assert len(roles) == len(PEOPLE)
    kinds.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(roles))
    for role in PEOPLE:
        account = f"--serviceaccount={namespace}:{role}"
        bind = ("create", "rolebinding", role, f"--clusterrole={role}", account)
        kinds.kubectl(*bind, "--namespace", namespace)
    yield namespace, {role: kinds.user(role, namespace) for role in PEOPLE}
    kinds.kubectl("delete", "namespace", namespace, "--wait=false")


def may(who: Access, namespace: str, verb: str, kind: str, part: str = "") -> bool:
    """Ask the API server as that person; `part` is a subresource."""
    what = (f"{kind}.serving.tidemill.dev", f"--subresource={part}")
    asked = ("auth", "can-i", verb, *what, "--namespace", namespace)
    return who.kubectl(*asked, check=False).startswith("yes")


ALLOWED = {
    "view": {"get", "list", "watch"},
    "edit": {"get", "list", "watch", "create", "update", "patch", "delete"},
}


@pytest.mark.parametrize("kind", ["modelrollouts", "analysispolicies"])
@pytest.mark.parametrize("role", PEOPLE)
def test_people_have_what_their_role_says(
    people: tuple[str, dict[str, Access]], role: str, kind: str
) -> None:
    namespace, known = people
    rollouts.eventually(lambda: may(known[role], namespace, "list", kind))
    verbs = ALLOWED["edit"] | {"deletecollection"}
    assert {verb for verb in verbs if may(known[role], namespace, verb, kind)} == ALLOWED[role]
    assert not may(known[role], namespace, "update", kind, "status")


@pytest.mark.parametrize(
    ("role", "verbs"), [("view", {"get"}), ("edit", {"get", "update", "patch"})]
)
def test_people_may_scale_who_may_edit(
    people: tuple[str, dict[str, Access]], role: str, verbs: set[str]
) -> None:
    namespace, known = people
    who = known[role]
    rollouts.eventually(lambda: may(who, namespace, "get", "modelrollouts", "scale"))
    asked = ALLOWED["edit"] | {"deletecollection"}
    assert {v for v in asked if may(who, namespace, v, "modelrollouts", "scale")} == verbs


def test_who_may_edit_applies_a_rollout(people: tuple[str, dict[str, Access]]) -> None:
    namespace, known = people
    body: dict[str, Any] = rollouts.manifest(namespace)
    rollouts.eventually(lambda: may(known["edit"], namespace, "create", "modelrollouts"))
    said = known["edit"].kubectl("apply", "-f", "-", stdin=json.dumps(body))
    assert "created" in said
    refused = known["view"].kubectl("delete", "mro", "--all", "-n", namespace, check=False)
    assert "Forbidden" in refused or "forbidden" in refused


def test_an_upgrade_leaves_the_autoscaler_its_number(
    kinds: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Helm writes what differs between two releases, whatever was made of the object since."""

    def release(verb: str, **changes: Any) -> int:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(ONE_MODEL | changes))
        options = ("--namespace", namespace, "--values", str(file))
        kinds.helm(verb, "tidemill", str(CHART), *options)
        got = kinds.kubectl("get", "mro", "churn", "-n", namespace, "-o", "json")
        return int(json.loads(got)["spec"]["runtime"]["replicas"])

    assert release("install") == 1
    kinds.kubectl("scale", "mro/churn", "--replicas=5", "-n", namespace)
    scaled = [MODEL | {"autoscaling": HPA}]
    assert release("upgrade", models=scaled) == 5
    assert release("upgrade", models=scaled, monitor={"deadlineSeconds": 7}) == 5
    unnamed = [scaled[0] | {"rollout": ROLLOUT | {"runtime": {}}}]
    assert release("upgrade", models=unnamed) == 1, "taking it out of the values is a change, too"
