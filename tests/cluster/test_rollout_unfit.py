"""A canary that must not serve, on a cluster, nothing of it played: its pods say why they do not
start, the controller reads it from their status, no client meets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from tests.cluster.served import World, scraped, served_world
from tests.unfit import corrupt, demanding, drifted, tampered

from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow

STEPS = [{"name": "c50", "weight": 5000, "minEvents": 50}]
METRICS = [{"name": "errors", "event": "error", "maxRate": "0.05"}]
DEADLINE = 600
"""Seconds that a canary may take to get ready: more than the test waits."""
REASONS = [
    (corrupt, "refuses to start", "model.onnx cannot be loaded"),
    (drifted, "refuses to start", "golden row 1 (nothing known) scored 0.2"),
    # These servers do not verify signatures; what they serve is not what was ordered all the same.
    (tampered, "failed its rehearsal", "it serves the bundle sha256:"),
    (demanding, "failed its rehearsal", "the canary needs the input 'crew' (FP32)"),
]


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[World]:
    spec = {
        "strategy__steps": STEPS,
        "strategy__progressDeadlineSeconds": DEADLINE,
        "analysis": {"inline": {"metrics": METRICS}},
    }
    with served_world(cluster, node, namespace, tmp_path, scraped, {}, World, **spec) as world:
        yield world


def test_a_canary_that_must_not_serve_meets_no_client(world: World) -> None:
    world.want(world.release("1", -1.0))
    world.wait_for_deployment()
    with world.clients():
        for number, (spoil, where, says) in enumerate(REASONS, start=1):
            version = str(number + 1)
            bundle = write_bundle(world.folder / version, manifest=MANIFEST, bias=-1 - number / 100)
            model = spoil(bundle, partial(world.sign, version=version))
            world.want(world.place(bundle, model))
            ended = lambda s, n=number: s["phase"] == "stable" and len(s.get("history", [])) == n  # noqa: E731
            last = world.wait(ended)["history"][0]
            assert last["outcome"] == "rolled_back"
            assert where in last["reason"]
            assert says in last["reason"]
    assert set(world.answered) == {"1"}, "none failed, no canary answered"
