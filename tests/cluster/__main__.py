"""Keep a test cluster running until Ctrl-C: `make cluster`."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.cluster import sources


def main() -> None:
    """Start the control plane and, where the machine permits it, node and gateway."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-cluster-")))
        cluster = stack.enter_context(sources.cluster(folder, folder / "access"))
        try:
            stack.enter_context(sources.node(cluster, folder))
            sources.install_gateway_api(cluster)
            stack.enter_context(sources.gateway(folder))
        except sources.NoCluster as reason:
            print(f"control plane only: {reason}", file=sys.stderr)
        print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.programs}:$PATH", flush=True)
        print("Ctrl-C stops the cluster", file=sys.stderr)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except sources.NoCluster as reason:
        sys.exit(f"no cluster: {reason}")
