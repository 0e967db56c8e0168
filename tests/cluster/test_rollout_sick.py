"""Models that fail on a cluster, nothing of it played: both arms at once, stable alone. What fails
is ONNX Runtime in a pod, on rows that a model cannot take; what clients ask decides when they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.bundles import LONG, LONGEST, SHORT
from tests.cluster.served import World, promoted, scraped, served_world

pytestmark = pytest.mark.slow

METRICS = [{"name": "errors", "event": "error", "passRatio": "2", "maxRate": "0.05"}]
HALF = {"name": "c50", "weight": 5000}
ENDLESS = [HALF | {"minEvents": 1_000_000}]
SHORTER = [HALF | {"minEvents": 300, "gate": ["errors"]}]


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[World]:
    spec = {"strategy__steps": ENDLESS, "analysis": {"inline": {"metrics": METRICS}}}
    settings: dict[str, str] = {}
    with served_world(
        cluster, node, namespace, tmp_path, scraped, settings, World, **spec
    ) as world:
        yield world


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_both_arms_fail_then_stable_alone_and_its_cure_takes_over(world: World) -> None:
    sick, same = world.make("1", LONGEST), world.make("2", LONGEST)
    cure, better = world.make("3"), world.make("4")
    world.want(sick)
    world.wait_for_deployment()
    rows = [SHORT]
    with world.clients(rows):
        world.want(same)
        world.wait(lambda s: s.get("weight") == 5000 and world.answered["2"] > 20)
        rows.append(LONG)  # from now on every other request is one that neither can score
        both = world.wait(lambda s: s.get("phase") == "paused")
        assert (both["weight"], conditions(both)["Stalled"]) == (5000, ("True", "Unhealthy"))
        assert both["decisions"][-1]["reason"].endswith("above max_rate in errors")
        assert not both.get("history"), "nobody was blamed"

        world.want(cure)
        alone = world.wait(lambda s: len(s.get("history", [])) == 1 and s["phase"] == "paused")
        assert alone["history"][0]["outcome"] == "superseded"
        assert alone["decisions"][-1]["reason"] == "stable is above max_rate in errors"
        assert conditions(alone)["StableHealthy"] == ("False", "AboveMaxRate")

        world.want(better, strategy__steps=SHORTER, strategy__onStableUnhealthy="Proceed")
        world.wait(promoted)
    assert world.answered["failed"] == 0, "the share of the event answers for a model that fails"
    assert world.answered["4"] > 0
