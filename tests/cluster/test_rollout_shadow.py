"""A shadow step on a cluster, nothing of it played: Envoy mirrors what clients ask through a
Gateway, real servers in pods answer, the controller reads both arms' answers from the pods.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.served import World, scraped, served_world

pytestmark = pytest.mark.slow

STEPS = [
    {"name": "shadow", "shadow": {"percent": 50}, "gate": ["disagreement"], "minEvents": 100},
    {"name": "c50", "weight": 5000, "minEvents": 50},
]
METRICS = [{"name": "errors", "event": "error", "maxRate": "0.05"}]
PAIRED = [{"name": "disagreement", "event": "flip", "maxRate": "0.05", "alphaShare": 20}]


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[World]:
    analysis = {"metrics": METRICS, "paired": PAIRED}
    spec = {"strategy__steps": STEPS, "analysis__inline": analysis}
    with served_world(cluster, node, namespace, tmp_path, scraped, {}, World, **spec) as world:
        yield world


def test_a_model_that_agrees_goes_on_and_one_that_does_not_never_meets_a_client(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good, same, bad = (world.release(v, b) for v, b in (("1", -1.0), ("2", -1.001), ("3", -9.0)))
    world.want(good)
    world.wait_for_deployment()
    with world.clients():
        world.want(same)
        shadowing = world.wait(lambda s: s.get("paired"))
        assert (shadowing["weight"], shadowing["mirror"]) == (0, 5000)
        assert world.answered["2"] == 0
        promoted = world.wait(lambda s: s.get("phase") == "stable" and s.get("history"))
        assert promoted["history"][0]["outcome"] == "promoted"

        world.want(bad)
        done = world.wait(lambda s: s.get("phase") == "stable" and len(s.get("history", [])) == 2)
    assert done["history"][0]["outcome"] == "rolled_back"
    assert "harm in disagreement" in done["history"][0]["reason"]
    assert world.answered["failed"] == world.answered["3"] == 0
    assert world.answered["2"] > 0
    with capsys.disabled():
        print(f" {world.answered.total()} requests, {world.answered['failed']} failed")
