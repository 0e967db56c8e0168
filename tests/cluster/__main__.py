"""Keep a test cluster running until Ctrl-C, with the chart installed: `make cluster`."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.cluster import sources
from tests.cluster.access import Cluster, CommandFailed
from tests.cluster.installation import Backing, Release, add_images
from tests.cluster.workloads import Workloads

NAMESPACE, BACKING = "tidemill", "backing"


def main() -> None:
    """Start the control plane and, where the machine permits it, node, gateway and the chart."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-cluster-")))
        cluster = stack.enter_context(sources.cluster(folder, folder / "access"))
        try:
            node = stack.enter_context(sources.node(cluster, folder))
            sources.install_gateway_api(cluster)
            stack.enter_context(sources.gateway(folder))
            install(cluster, node, folder / "images")
        except sources.NoCluster as reason:
            print(f"not all of it: {reason}", file=sys.stderr)
        except CommandFailed as error:
            print(f"without the chart: {error}", file=sys.stderr)
        print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.programs}:$PATH", flush=True)
        print("Ctrl-C stops the cluster", file=sys.stderr)
        signal.pause()


def install(cluster: Cluster, node: Workloads, folder: Path) -> None:
    """Install the chart as release and in namespace `tidemill`, what it needs beside it."""
    add_images(node, folder)
    for name in (BACKING, NAMESPACE):
        cluster.kubectl("create", "namespace", name)
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", NAMESPACE, enforced)
    backing = Backing.start(cluster, BACKING)
    secret = backing.secret(cluster, NAMESPACE)
    values = {"mlflow": {"persistence": {"enabled": False}}, "secretName": secret}
    Release(cluster, NAMESPACE).upgrade({"settings": backing.settings, **values})


if __name__ == "__main__":
    try:
        main()
    except sources.NoCluster as reason:
        sys.exit(f"no cluster: {reason}")
