"""A canary that must not serve, behind a real Envoy with clients that never pause: it meets none of
them, and the attempt ends at once with the reason that its own server gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.rollout_machine import RolloutMachine, started
from tests.shadowed import asking, over_http
from tests.unfit import corrupt, demanding, drifted, misplaced, tampered

from tidemill.domain.rollout.model import State
from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow

MODEL = "unfit-flights"
DEADLINE = 600
"""Seconds that a canary may take to get ready: far more than the test waits."""
REASONS = [
    (corrupt, "refuses to start", "model.onnx cannot be loaded"),
    (tampered, "refuses to start", "'profile.json' is not what was signed"),
    (drifted, "refuses to start", "golden row 1 (nothing known) scored 0.2"),
    (misplaced, "failed its rehearsal", "it serves the bundle sha256:"),
    (demanding, "failed its rehearsal", "the canary needs the input 'crew' (FP32)"),
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutMachine]:
    rollout = {
        "steps": [{"name": "c50", "weight": 5000, "min_events": 50}],
        "analysis": {"metrics": [{"name": "errors", "event": "error", "max_rate": 0.05}]},
        "progress_deadline_seconds": DEADLINE,
    }
    with started(RolloutMachine(tmp_path, monkeypatch, MODEL, rollout)) as world:
        yield world


def test_a_canary_that_must_not_serve_meets_no_client(world: RolloutMachine) -> None:
    def write(name: str, bias: float) -> Path:
        return write_bundle(world.folder / name, manifest=replace(MANIFEST, name=MODEL), bias=bias)

    good = world.sign(write("good", -1.0))
    world.deploy(good)
    with asking(over_http(world.url), 2) as answered:
        for number, (spoil, where, says) in enumerate(REASONS, start=1):
            world.start(spoil(write(str(number), -1.0 - number / 1000), world.sign))

            def ended(state: State, number: int = number) -> bool:
                return state.phase == "stable" and len(state.history) == number

            last = world.wait(ended).history[0]
            assert last.outcome == "rolled_back"
            assert where in last.reason
            assert says in last.reason
        before = answered[good.version]
        world.wait(lambda _: answered[good.version] > before + 10)
    assert set(answered) == {good.version}, "none failed, no canary answered"
    assert all(decision.weight == 0 for decision in world.log)
