"""A canary on the test cluster with real traffic: `make cluster-demo`.

Version 1 is deployed, version 2 is promoted, version 3 fails for some requests and is rolled back.
Exit code 0: it went like that, and not one request failed.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.cluster import images, sources
from tests.cluster.build import CannotBuild
from tests.cluster.journey import SETS, TOO_LONG, Journey, Traffic

BEGAN = time.monotonic()


def main() -> int:
    """Play it, and return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    built = images.build(*SETS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-demo-")))
        cluster = stack.enter_context(sources.cluster(folder, folder / "access"))
        node = stack.enter_context(sources.node(cluster, folder))
        sources.install_gateway_api(cluster)
        stack.enter_context(sources.gateway(folder))
        say(f"cluster ready: export KUBECONFIG={cluster.kubeconfig} PATH={cluster.programs}:$PATH")
        journey = Journey(cluster, node, built, folder / "project")
        stack.enter_context(journey.running())
        say(f"chart installed in {journey.namespace}: controller and MLflow in their images")
        return play(journey)


def play(journey: Journey) -> int:
    """Deploy, promote, roll back; return 0 if the clients noticed nothing."""
    journey.want(journey.register(0.001))
    journey.until_at_rest(0, tell)
    journey.until_promoted()
    say(f"version 1 serves; clients begin at {journey.url}")
    with Traffic(journey.url) as traffic:
        journey.want(journey.register(0.00101))
        journey.until_at_rest(1, tell)
        say(f"{traffic.tally.requests} requests so far, {traffic.tally.failed} failed")
        say(f"version 3 fails for distances above {TOO_LONG}, one request in three")
        journey.want(journey.register(0.00102, longest=TOO_LONG))
        journey.until_at_rest(2, tell)
    tally, ends = traffic.tally, [one["outcome"] for one in journey.status["history"]]
    answers = ", ".join(f"{n} by version {v}" for v, n in sorted(tally.versions.items()))
    say(f"{tally.requests} requests, {tally.failed} failed; answered: {answers}")
    return 0 if ends == ["rolled_back", "promoted"] and not tally.failed else 1


def tell(decision: dict[str, Any]) -> None:
    """Print a decision of the controller."""
    share = f"{decision['weight'] / 100:g} %"
    say(f"{decision['action']:10} canary at {share:5} {decision['reason']}")


def say(text: str) -> None:
    """Print a line with the time since the beginning."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (sources.NoCluster, CannotBuild) as reason:
        sys.exit(f"no demo: {reason}")
