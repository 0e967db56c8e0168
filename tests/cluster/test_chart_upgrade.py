"""From the chart before to this one and back, with a canary in flight.

On a cluster of its own: definitions of kinds are the whole cluster's, and other tests need today's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import sources
from tests.cluster.access import Cluster
from tests.cluster.installation import CHART, EDGE, Backing, Opened, Release, add_images
from tests.cluster.journey import ANALYSIS, MODEL, STRATEGY, Traffic
from tests.cluster.rollouts import eventually
from tests.cluster.sources import NoCluster
from tests.refusal import NO_PODS, refuse

from tidemill.ports.registry import ModelVersion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PREVIOUS = Path(__file__).parent / "previous" / "tidemill-0.1.0.tgz"
"""charts/tidemill of commit 7cddc34a, `helm package`d: a clone without history has it too. The pods
of both charts run this checkout's code."""
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
DIGEST = "sha256:" + "1" * 64
PATIENCE = 300.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of its own, with node and gateway, that no other test uses."""
    folder = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(sources.cluster(folder, folder))
            node = stack.enter_context(sources.node(cluster, folder))
            sources.install_gateway_api(cluster)
            stack.enter_context(sources.gateway(folder))
            add_images(node, folder / "images")
        except NoCluster as reason:
            refuse(NO_PODS, reason)
        yield cluster


@pytest.fixture(scope="module")
def previous(cluster: Cluster) -> Opened:
    """A release of the chart before, with its definitions and a Gateway."""
    backing = Backing.start(cluster, cluster.namespace())
    namespace = cluster.namespace(enforce="restricted")
    backing.secret(cluster, namespace)
    release = Release(cluster, namespace)
    opened = Opened(release, cluster.folder / "images/project", backing)
    release.upgrade(values(opened), chart=PREVIOUS)
    release.kubectl("apply", "-f", "-", stdin=json.dumps(EDGE))
    release.kubectl("wait", "gateway/edge", "--for=condition=Programmed", "--timeout=300s")
    return opened


def values(opened: Opened, version: ModelVersion | None = None) -> dict[str, Any]:
    """Return values that both charts take, with a rollout of a version."""
    settings = opened.backing.settings
    own = {
        "registry": settings["registry"] | {"verify_key": "configs/signing.pub"},
        "serving": {"auth": {"allow_anonymous": True}},
    }
    return {
        "settings": settings | own,
        "secretName": "credentials",
        "images": {"serve": {"digest": DIGEST}, "registry": {"digest": DIGEST}},
        "mlflow": {"persistence": {"enabled": False}, "hosts": ["198.1*"]},
        "models": [{"name": MODEL, "rollout": rollout(version)}] if version else [],
    }


def rollout(version: ModelVersion) -> dict[str, Any]:
    """Return the specification that wants a version."""
    return {
        "model": {
            "version": version.version,
            "digest": version.digest,
            "threshold": "0.2",
            "scoreTails": {"low": "0.65", "high": "0.85"},
        },
        "runtime": {"replicas": 1},
        "traffic": {"parentRefs": [{"name": "edge"}], "settleSeconds": 2},
        "strategy": STRATEGY,
        "analysis": {"inline": ANALYSIS},
    }


def status(release: Release) -> dict[str, Any]:
    """Return the rollout's status."""
    found = json.loads(release.kubectl("get", "mro", MODEL, "--output=json"))
    return found.get("status", {})  # type: ignore[no-any-return]


def servers(release: Release) -> set[str]:
    """Return the names of the pods that serve."""
    chosen = f"--selector=serving.tidemill.dev/rollout={MODEL}"
    return set(release.kubectl("get", "pods", chosen, "--output=name").split())


def charts(release: Release) -> set[str]:
    """Return of which chart the parts are."""
    read = "--output=jsonpath={.items[*].metadata.labels.helm\\.sh/chart}"
    mine = "--selector=app.kubernetes.io/managed-by=Helm"
    return set(release.kubectl("get", "deployments", mine, read).split())


def controllers(release: Release) -> int:
    """Return how many controllers are ready."""
    read = "--output=jsonpath={.status.readyReplicas}"
    return int(release.kubectl("get", "deployment/tidemill-controller", read))


def flying(release: Release) -> bool:
    """Whether the canary waits at its first step, with servers of both versions."""
    now = status(release)
    return now.get("step") == "c20" and now.get("weight") == 2000 and len(servers(release)) == 2


def test_the_previous_chart_takes_a_canary_half_way(previous: Opened, tmp_path: Path) -> None:
    release = previous.release
    first = previous.register(tmp_path / "first", MODEL, 0.001)
    release.upgrade(values(previous, first), chart=PREVIOUS)
    release.kubectl("wait", f"mro/{MODEL}", "--for=condition=Promoted", "--timeout=300s")
    second = previous.register(tmp_path / "second", MODEL, 0.00101)
    release.upgrade(values(previous, second), chart=PREVIOUS)
    eventually(lambda: flying(release), PATIENCE)
    assert charts(release) == {"tidemill-0.1.0"}
    assert status(release)["checkpoint"]


def test_an_upgrade_goes_on_from_its_checkpoint(previous: Opened, cluster: Cluster) -> None:
    """Definitions first, then the chart, as install.md says; no server is restarted by either."""
    release = previous.release
    before, running = status(release), servers(release)
    scale = ("get", "mro", MODEL, "--subresource=scale", "--output=name")
    assert "NotFound" in release.kubectl(*scale, check=False), "it differs in its definitions, too"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", CHART / "crds")
    eventually(lambda: "NotFound" not in release.kubectl(*scale, check=False))
    given = json.loads(release.helm("get", "values", release.name, "--output=json"))
    release.upgrade(given | {"controller": {"replicas": 2}})
    assert charts(release) == {f"tidemill-{VERSION}"}
    assert controllers(release) == 2
    after = status(release)
    assert servers(release) == running
    kept = ("attempt", "step", "weight", "stable", "canary")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert after["decisions"][: len(before["decisions"])] == before["decisions"]
    read = "--output=jsonpath={.status.addresses[0].value}"
    with Traffic(f"http://{release.kubectl('get', 'gateway/edge', read)}:8080") as traffic:
        ended = eventually(lambda: status(release).get("history"), PATIENCE)
    assert traffic.tally.failed == 0
    assert [(one["attempt"], one["outcome"]) for one in ended] == [(before["attempt"], "promoted")]
    assert status(release)["stable"]["version"] == "2"


def test_the_way_back_leaves_the_servers_and_looks_after_them(previous: Opened) -> None:
    """Definitions stay the new ones; what the newer schema added is no new revision."""
    release = previous.release
    eventually(lambda: len(servers(release)) == 1, PATIENCE)
    running = servers(release)
    release.helm("rollback", release.name, "--wait", "--timeout=300s")
    assert charts(release) == {"tidemill-0.1.0"}
    assert controllers(release) == 1
    more = json.dumps({"spec": {"runtime": {"replicas": 2}}})
    release.kubectl("patch", "mro", MODEL, "--type=merge", f"--patch={more}")
    eventually(lambda: len(servers(release)) == 2, PATIENCE)
    assert running < servers(release)
    assert status(release)["stable"]["version"] == "2"


def test_it_goes_without_a_trace_of_its_rollouts(previous: Opened, cluster: Cluster) -> None:
    release = previous.release
    release.helm("uninstall", release.name, "--wait", "--timeout=300s")
    gone = ("get", "mro,deployments,pods,leases", "--output=name")
    eventually(lambda: release.kubectl(*gone) == "", PATIENCE)
    assert "modelrollouts.serving.tidemill.dev" in cluster.kubectl("get", "crds", "--output=name")
