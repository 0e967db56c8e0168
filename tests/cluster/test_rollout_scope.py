"""One controller for the whole cluster, under the roles that the production profile makes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.charts.profiles import RENDERED
from tests.charts.rendering import render
from tests.cluster import sources
from tests.cluster.access import Cluster
from tests.cluster.rollout_plane import PlayedPlane
from tests.cluster.rollouts import eventually, manifest
from tests.cluster.test_rollout_controller import FAST, NAME, running, stable, status, want
from tests.refusal import NO_CLUSTER, refuse

from tidemill.adapters.kubernetes.client import LEASES, ROLLOUTS
from tidemill.wiring.kubernetes import LEASE

pytestmark = [pytest.mark.usefixtures("controllers", "programs"), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of its own: this controller would look after other tests' rollouts, too."""
    if os.environ.get(sources.KUBECONFIG):
        refuse(NO_CLUSTER, f"{sources.KUBECONFIG} is set, and this needs a cluster without others")
    folder = tmp_path_factory.mktemp("alone")
    try:
        with sources.cluster(folder, folder / "access") as cluster:
            yield cluster
    except sources.NoCluster as reason:
        refuse(NO_CLUSTER, reason)


@pytest.fixture
def other(cluster) -> Iterator[str]:
    """Return a namespace that the chart is not installed in."""
    name = cluster.namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def account(cluster, api, namespace) -> Iterator[Any]:
    """Return the controller's access, with what the chart grants and nothing else."""
    access = cluster.user("tidemill-controller", namespace)
    granted = [
        one
        for one in render(RENDERED["production"], f"--namespace={namespace}")
        if one["kind"].endswith(("Role", "RoleBinding")) and "controller" in one["metadata"]["name"]
    ]
    assert {one["kind"] for one in granted} >= {"ClusterRole", "ClusterRoleBinding", "Role"}
    text = yaml.safe_dump_all(granted)
    cluster.kubectl("apply", "-f", "-", stdin=text)
    yield access
    cluster.kubectl("delete", "-f", "-", "--wait=false", stdin=text)


def test_it_promotes_in_a_namespace_that_is_not_its_own(cluster, api, namespace, other, account):
    with (
        PlayedPlane(api, other, NAME) as plane,
        running(account, namespace, plane, scope="") as controller,
    ):
        api.create(ROLLOUTS, manifest(other, **FAST))
        stable(api, other, "1")
        want(cluster, other, 2)
        eventually(lambda: status(api, other).get("history"), 90)
        found = stable(api, other, "2")
        assert found["history"][0]["outcome"] == "promoted"
        assert plane.unanswered == 0
        events = json.loads(cluster.kubectl("get", "events", "-n", other, "-o", "json"))
        assert {"Deploy", "Promote"} <= {one["reason"] for one in events["items"]}
        assert controller.page("/healthz").text == "ok"
    assert [one["metadata"]["name"] for one in api.select(LEASES, namespace, {})] == [LEASE]
    assert not api.select(LEASES, other, {})
    assert not controller.error
