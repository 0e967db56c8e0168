"""Fixtures of the tests that need a Kubernetes API, most of them real controllers too."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.cluster import images, rollouts, sources
from tests.cluster.access import Cluster
from tests.cluster.build import CannotBuild
from tests.cluster.gateway.world import CLASS
from tests.cluster.node.images import Image
from tests.cluster.workloads import Workloads
from tests.refusal import NO_CLUSTER, NO_IMAGES, NO_PODS, refuse

from tidemill.adapters.kubernetes.client import KubeClient
from tidemill.adapters.store.engine import open_store

SAID = 3000
"""Characters of each daemon's log that a failed test shows: its machine may be gone by then."""


@pytest.fixture(scope="session")
def cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this test run share; it keeps the logs."""
    return _shared(tmp_path_factory)


@pytest.fixture(scope="session")
def cluster(cluster_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return the administrator's access to the cluster of this test run."""
    try:
        with sources.cluster(cluster_folder, tmp_path_factory.mktemp("access")) as cluster:
            yield cluster
    except sources.NoCluster as reason:
        refuse(NO_CLUSTER, reason)


@pytest.fixture(scope="session")
def programs() -> Path:
    """Return the folder of helm and kubeconform (and the rest of go.mod's), cluster or not."""
    try:
        return sources.built_programs()
    except sources.NoCluster as reason:
        refuse(NO_CLUSTER, reason)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Return a new namespace, deleted after the test."""
    name = cluster.namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[str]:
    """Return another new namespace, deleted after the test."""
    name = cluster.namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def definitions(cluster: Cluster) -> Cluster:
    """Return the cluster where our kinds and Gateway API's are defined."""
    try:
        rollouts.install(cluster)
    except sources.NoCluster as reason:
        refuse(NO_CLUSTER, reason)
    return cluster


@pytest.fixture(scope="module")
def api(definitions: Cluster) -> Iterator[KubeClient]:
    """Return the rollout's client of the API, where our kinds and Gateway API's are defined."""
    with rollouts.client(definitions) as api:
        yield api


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    """Return the store of one machine: the backend that a cluster is compared with."""
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def controllers(cluster: Cluster) -> Cluster:
    """Return the cluster if it has a controller manager and a scheduler."""
    if not cluster.controllers:
        refuse(NO_CLUSTER, f"{sources.ASSETS} has no kube-controller-manager")
    return cluster


@pytest.fixture(scope="session")
def node(cluster: Cluster, cluster_folder: Path) -> Iterator[Workloads]:
    """Return the node that runs pods as processes of this machine."""
    try:
        with sources.node(cluster, cluster_folder) as node:
            yield node
    except sources.NoCluster as reason:
        refuse(NO_PODS, reason)


@pytest.fixture(scope="session")
def built(node: Workloads, request: pytest.FixtureRequest) -> Callable[..., dict[str, Image]]:
    """Return what makes the images of dependency sets, or fetches them from the cache."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def build(*sets: str) -> dict[str, Image]:
        try:
            with capture.global_and_fixture_disabled():  # it takes minutes, and says so
                return images.build(*sets)
        except CannotBuild as reason:
            refuse(NO_IMAGES, reason)

    return build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a cluster, so that `-m 'not cluster'` leaves it out."""
    for item in items:
        if _needs_cluster(item):
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def gateway_api(cluster: Cluster) -> None:
    """Install Gateway API's custom resource definitions."""
    try:
        sources.install_gateway_api(cluster)
    except sources.NoCluster as reason:
        refuse(NO_CLUSTER, reason)


@pytest.fixture(scope="session")
def gateway(gateway_api: None, node: Workloads, cluster_folder: Path) -> Iterator[str]:
    """Run the stand-in for a Gateway API implementation and return its GatewayClass."""
    with sources.gateway(cluster_folder):
        yield CLASS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say where the logs are when a test fails, and why all are skipped on one line."""
    report = yield
    if report.failed and _needs_cluster(item):
        folder = _shared(item.config._tmp_path_factory)  # type: ignore[attr-defined]
        report.sections.append(("cluster", f"logs: {folder}/*/*.log"))
        for log in sorted(folder.glob("*/daemon.log")):
            report.sections.append((log.parent.name, log.read_text(errors="replace")[-SAID:]))
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if NO_CLUSTER in why or NO_PODS in why:
        report.longrepr = (__file__, 1, why)  # the same place for all
    return report


def _needs_cluster(item: pytest.Item) -> bool:
    return "cluster" in getattr(item, "fixturenames", ())


def _shared(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cluster"
