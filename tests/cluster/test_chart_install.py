"""The chart on a real API server: installed, upgraded, rolled back, uninstalled; it works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.access import Cluster
from tests.cluster.installation import Backing, Release, add_images
from tests.cluster.rollouts import eventually, manifest
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads

KINDS = (
    "all,configmaps,cronjobs,leases,networkpolicies,persistentvolumeclaims,poddisruptionbudgets,"
    "rolebindings,roles,secrets,serviceaccounts,modelrollouts,analysispolicies,"
    "clusterroles,clusterrolebindings,priorityclasses"
)


@pytest.fixture(scope="module")
def backing(
    cluster: Cluster, node: Workloads, gateway_api: None, cluster_folder: Path
) -> Iterator[Backing]:
    """PostgreSQL and an object store, beside which the release lives."""
    try:
        add_images(node, cluster_folder / "images")
    except NoCluster as reason:
        pytest.skip(f"NO TESTS OF RUNNING PODS: {reason}")
    namespace = cluster.namespace()
    yield Backing.start(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def values(backing: Backing) -> dict[str, Any]:
    return {
        "settings": backing.settings,
        "secretName": "credentials",
        "mlflow": {"persistence": {"enabled": False}},
    }


@pytest.fixture(scope="module")
def release(cluster: Cluster, backing: Backing, values: dict[str, Any]) -> Iterator[Release]:
    """The release, installed where Pod Security admits nothing but `restricted`."""
    namespace = cluster.namespace(enforce="restricted")
    backing.secret(cluster, namespace)
    release = Release(cluster, namespace)
    release.upgrade(values)
    yield release
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def deployment(release: Release, part: str) -> dict[str, Any]:
    found = release.kubectl("get", "deployment", f"tidemill-{part}", "--output=json")
    return json.loads(found)  # type: ignore[no-any-return]


def test_its_own_test_passes(release: Release) -> None:
    said = release.helm("test", release.name)
    assert "Succeeded" in said


def test_the_controller_looks_after_a_rollout(release: Release) -> None:
    release.kubectl("apply", "-f", "-", stdin=json.dumps(manifest(release.namespace)))
    owned = ("get", "deployments,services,httproutes", "--output=name")
    chosen = "--selector=serving.tidemill.dev/rollout=flight-delay"
    made = eventually(lambda: release.kubectl(*owned, chosen).split())
    assert {name.split(".")[0].split("/")[0] for name in made} >= {"deployment", "service"}
    release.kubectl("delete", "modelrollout", "flight-delay")
    eventually(lambda: not release.kubectl(*owned, chosen).split())


def test_an_upgrade_and_the_way_back(release: Release, values: dict[str, Any]) -> None:
    release.upgrade(values | {"controller": {"replicas": 2}})
    assert deployment(release, "controller")["status"]["readyReplicas"] == 2
    release.helm("rollback", release.name, "1", "--wait", "--timeout=120s")
    assert deployment(release, "controller")["spec"]["replicas"] == 1


def test_nothing_is_left(release: Release, cluster: Cluster) -> None:
    release.helm("uninstall", release.name, "--wait", "--timeout=60s")
    mine = "--selector=app.kubernetes.io/instance=tidemill"
    left = ("get", KINDS, mine, "--output=name")
    eventually(lambda: release.kubectl(*left) == "")
    crds = cluster.kubectl("get", "crds", "--output=name")
    assert "modelrollouts.serving.tidemill.dev" in crds, "helm keeps what holds the rollouts"
