"""Fixtures of the tests that need a Kubernetes API, most of them real controllers too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.cluster import sources
from tests.cluster.access import Cluster
from tests.cluster.workloads import Workloads


@pytest.fixture(scope="session")
def cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this test run share; it keeps the logs."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cluster"


@pytest.fixture(scope="session")
def cluster(cluster_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the administrator's access to the cluster of this test run."""
    try:
        with sources.cluster(cluster_folder, tmp_path_factory.mktemp("access")) as cluster:
            yield cluster
    except sources.NoCluster as reason:
        _refuse(str(reason))


@pytest.fixture(scope="session")
def programs() -> Path:
    """Return the folder of helm and kubeconform (and the rest of go.mod's), cluster or not."""
    try:
        return sources.built_programs()
    except sources.NoCluster as reason:
        _refuse(str(reason))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Return a new namespace, deleted after the test."""
    name = cluster.namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def controllers(cluster: Cluster) -> Cluster:
    """Return the cluster if it has a controller manager and a scheduler."""
    if not cluster.controllers:
        pytest.skip(f"{sources.ASSETS} has no kube-controller-manager: nothing would happen")
    return cluster


@pytest.fixture(scope="session")
def node(cluster: Cluster, cluster_folder: Path) -> Iterator[Workloads]:
    """Return the node that runs pods as processes of this machine."""
    try:
        with sources.node(cluster, cluster_folder) as node:
            yield node
    except sources.NoCluster as reason:
        _refuse(str(reason))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a cluster, so that `-m 'not cluster'` leaves it out."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


def _refuse(reason: str) -> NoReturn:
    if os.environ.get(sources.REQUIRE):
        pytest.fail(f"{sources.REQUIRE} is set, and there is no cluster: {reason}")
    pytest.skip(f"NO CLUSTER TESTS: {reason}")
