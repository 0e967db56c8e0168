"""Clients that stay with the canary, whatever Envoy's weights say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bundles import LONGEST, SHORT, make_bundle
from tests.rollout_machine import RolloutMachine, started
from tests.shadowed import asking, over_http

from tidemill.domain.rollout.model import Revision
from tidemill.testing.models import MANIFEST

pytestmark = pytest.mark.slow

MODEL = "sticky-flights"
STEP = {"name": "c10", "weight": 1000, "min_events": 400}


def test_clients_that_stay_with_the_canary_block_the_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = {"steps": [STEP], "analysis": {"metrics": [{"name": "errors", "event": "error"}]}}
    with started(RolloutMachine(tmp_path, monkeypatch, MODEL, rollout)) as world:

        def release(name: str, scale: float) -> Revision:
            folder = tmp_path / name
            return world.sign(make_bundle(folder, MODEL, scale, LONGEST, MANIFEST.features))

        first, canary = release("a", 0.001), release("b", 0.0011)
        world.deploy(first)
        with asking(over_http(world.url), 2, [SHORT]) as answered:
            world.start(canary)
            world.wait(lambda s: s.weight == 1000)
            with asking(over_http(f"{world.address(canary)}{world.infer}"), 2, [SHORT]) as stuck:
                state = world.wait(
                    lambda s: (
                        ("TrafficVerified", "SampleRatioMismatch")
                        in [(c.type, c.reason) for c in s.conditions]
                    )
                )
                assert (state.phase, state.weight) == ("progressing", 1000)
                seen = answered.total()
                world.wait(lambda _: answered.total() > seen + 500)
                assert world.state.weight == 1000, "400 requests would have opened the gate"
                assert stuck[canary.version] > answered[canary.version]
            world.abort()
            world.wait(lambda s: s.phase == "stable" and bool(s.history))
        assert answered["failed"] == stuck["failed"] == 0
