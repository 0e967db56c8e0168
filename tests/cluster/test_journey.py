"""A model from the registry to all traffic, and a bad one back, with nothing played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.access import Cluster
from tests.cluster.journey import MODEL, SETS, TOO_LONG, Journey, Traffic
from tests.cluster.node.images import Image
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads
from tests.refusal import NO_PODS, refuse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def journey(
    cluster: Cluster,
    node: Workloads,
    gateway: str,
    built: Callable[..., dict[str, Image]],
    cluster_folder: Path,
) -> Iterator[Journey]:
    folder = cluster_folder / "journey"
    try:
        with Journey(cluster, node, built(*SETS), folder).running() as one:
            yield one
    except NoCluster as reason:
        refuse(NO_PODS, reason)


def test_no_client_notices_a_promotion_and_a_rollback(journey: Journey) -> None:
    registry = journey.project.registry
    journey.want(journey.register(0.001))
    journey.until_at_rest(0)
    journey.until_promoted()
    with Traffic(journey.url) as traffic:
        journey.want(journey.register(0.00101))
        journey.until_at_rest(1)
        promoted, servers = traffic.tally.versions["2"], journey.servers()
        journey.want(journey.register(0.00102, longest=TOO_LONG))
        journey.until_at_rest(2)
    history = journey.status["history"]
    assert [one["outcome"] for one in history] == ["rolled_back", "promoted"], history
    assert "errors" in history[0]["reason"], history
    assert traffic.tally.failed == 0
    assert promoted > 100
    assert traffic.tally.versions["3"] > 0, "the bad one had its share, and a fallback"
    assert set(traffic.tally.versions) == {"1", "2", "3"}
    assert journey.status["stable"]["version"] == "2"
    assert journey.servers() == servers, "the good ones were never replaced"
    assert registry.resolve(f"{MODEL}@champion").version == "2"
    told = {(e.action, e.version) for e in journey.project.ledger.entries()}
    assert {("moved", "2"), ("rejected", "3")} <= told
