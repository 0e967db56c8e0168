"""Where the tests' cluster comes from.

`TIDEMILL_TEST_KUBECONFIG` (kind, k3d, any cluster), else envtest's programs in
`KUBEBUILDER_ASSETS`, else programs built from go.mod.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import build, crds, shared
from tests.cluster.access import Cluster
from tests.cluster.node.node import obstacle
from tests.cluster.workloads import Workloads

KUBECONFIG = "TIDEMILL_TEST_KUBECONFIG"
ASSETS = "KUBEBUILDER_ASSETS"


class NoCluster(Exception):
    """No cluster can be had here; the message is the reason."""


@contextmanager
def cluster(shared_folder: Path, own_folder: Path) -> Iterator[Cluster]:
    """Yield the cluster of this test run.

    `shared_folder` is the same in all its processes, `own_folder` is this process's.

    Raises:
        NoCluster: Nothing that the environment names works, or nothing can be built.
    """
    own_folder.mkdir(parents=True, exist_ok=True)
    if kubeconfig := os.environ.get(KUBECONFIG):
        yield existing(Path(kubeconfig), own_folder)
        return
    programs = control_plane_programs()
    with shared.held(shared_folder / "plane", "tests.cluster.plane", [programs]) as ready:
        controllers = (programs / "kube-controller-manager").exists()
        yield Cluster(Path(ready["kubeconfig"]), programs, own_folder, controllers)


@contextmanager
def node(cluster: Cluster, shared_folder: Path) -> Iterator[Workloads]:
    """Run the process node of this test run's control plane, and yield its table of images.

    Raises:
        NoCluster: There is no scheduler, the cluster is not ours, or the machine permits no node.
    """
    plane, folder = shared_folder / "plane" / "ready.json", shared_folder / "node"
    if os.environ.get(KUBECONFIG):
        raise NoCluster(f"{KUBECONFIG} is set: its nodes do not run this machine's files")
    if not cluster.controllers:
        raise NoCluster(f"{ASSETS} has no kube-scheduler: no pod would come to a node")
    if reason := obstacle(cluster.folder / "trial"):
        raise NoCluster(reason)
    with shared.held(folder, "tests.cluster.node", [plane]):
        yield Workloads(folder)


def install_gateway_api(cluster: Cluster) -> None:
    """Install Gateway API's definitions; where they cannot be fetched, those in place do.

    Raises:
        NoCluster: They cannot be fetched and there are none.
    """
    try:
        folder = crds.gateway_api()
    except build.CannotBuild as error:
        if "httproutes.gateway.networking.k8s.io" in cluster.kubectl("get", "crd", "-o", "name"):
            return
        raise NoCluster(str(error)) from error
    cluster.kubectl("apply", "--server-side", "--filename", folder)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=300s", "--filename", folder)


@contextmanager
def gateway(shared_folder: Path) -> Iterator[None]:
    """Run the stand-in for a Gateway API implementation on the node's network."""
    plane = shared_folder / "plane" / "ready.json"
    with shared.held(shared_folder / "gateway", "tests.cluster.gateway", [plane]):
        yield


def existing(kubeconfig: Path, folder: Path) -> Cluster:
    """Return access to a cluster that runs already; its programs are those on the PATH."""
    if not kubeconfig.is_file():
        raise NoCluster(f"{KUBECONFIG}={kubeconfig}: no such file")
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise NoCluster(f"{KUBECONFIG} is set, but there is no kubectl on the PATH")
    return Cluster(kubeconfig, Path(kubectl).parent, folder, controllers=True)


def control_plane_programs() -> Path:
    """Return the folder of etcd and kube-apiserver at least."""
    if assets := os.environ.get(ASSETS):
        missing = [n for n in ("etcd", "kube-apiserver", "kubectl") if not Path(assets, n).exists()]
        if missing:
            raise NoCluster(f"{ASSETS}={assets} lacks {', '.join(missing)}: see setup-envtest")
        return Path(assets)
    return built_programs()


def built_programs() -> Path:
    """Return the folder of all programs that go.mod names."""
    try:
        return build.build()
    except build.CannotBuild as error:
        raise NoCluster(f"{error}; or set {KUBECONFIG} or {ASSETS}") from error
