"""A canary that must not serve, behind a real Envoy with clients that never pause: it meets none of
them, and the attempt ends at once with the reason that its own server gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.rollout_machine import RolloutMachine, started
from tests.shadowed import asking

from tidemill.domain.rollout.model import Revision, State
from tidemill.testing.models import MANIFEST, write_bundle, write_golden_rows

pytestmark = pytest.mark.slow

MODEL = "unfit-flights"
NAMED = replace(MANIFEST, name=MODEL)
DEADLINE = 600
"""Seconds that a canary may take to get ready: far more than the test waits."""


class World(RolloutMachine):
    """Versions of which one thing is wrong each."""

    def write(self, name: str, **changes: object) -> Path:
        return write_bundle(self.folder / name, **({"manifest": NAMED, "bias": -1.0} | changes))

    def corrupt(self) -> Revision:
        """A graph that is cut off, and signed so."""
        bundle = self.write("corrupt")
        graph = (bundle / "model.onnx").read_bytes()
        (bundle / "model.onnx").write_bytes(graph[: len(graph) // 2])
        return self.sign(bundle)

    def tampered(self) -> Revision:
        """A file that is another one than was signed."""
        bundle = self.write("tampered", bias=-1.001)
        signed = self.sign(bundle)
        (bundle / "profile.json").write_text("{}")
        return signed

    def misplaced(self) -> Revision:
        """A good bundle, and signed; it is another one than was ordered."""
        ordered = self.sign(self.write("ordered", bias=-1.002))
        other = self.sign(self.write("other", bias=-1.003))
        return replace(ordered, bundle=other.bundle)

    def demanding(self) -> Revision:
        """A model that needs what clients do not send."""
        seats = [c if c.name != "seats" else replace(c, name="crew", origin="request")
                 for c in NAMED.inputs]  # fmt: skip
        return self.sign(self.write("demanding", manifest=replace(NAMED, inputs=tuple(seats))))

    def drifted(self) -> Revision:
        """A model that no longer scores as it did when it was packaged."""
        bundle = self.write("drifted", bias=-1.004)
        write_golden_rows(bundle, NAMED, off=0.01)
        return self.sign(bundle)


REASONS: list[tuple[Callable[[World], Revision], str, str]] = [
    (World.corrupt, "refuses to start", "model.onnx cannot be loaded"),
    (World.tampered, "refuses to start", "'profile.json' is not what was signed"),
    (World.drifted, "refuses to start", "golden row 1 (nothing known) scored 0.27"),
    (World.misplaced, "failed its rehearsal", "it serves the bundle sha256:"),
    (World.demanding, "failed its rehearsal", "the canary needs the input 'crew' (FP32)"),
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    rollout = {
        "steps": [{"name": "c50", "weight": 5000, "min_events": 50}],
        "analysis": {"metrics": [{"name": "errors", "event": "error", "max_rate": 0.05}]},
        "progress_deadline_seconds": DEADLINE,
    }
    with started(World(tmp_path, monkeypatch, MODEL, rollout)) as world:
        yield world


def test_a_canary_that_must_not_serve_meets_no_client(world: World) -> None:
    good = world.sign(world.write("good"))
    world.deploy(good)
    with asking(world.url, 2) as answered:
        for number, (make, where, says) in enumerate(REASONS, start=1):
            unfit = make(world)
            world.start(unfit)

            def ended(state: State, number: int = number) -> bool:
                return state.phase == "stable" and len(state.history) == number

            done = world.wait(ended)
            assert done.history[0].outcome == "rolled_back"
            assert where in done.history[0].reason
            assert says in done.history[0].reason
            assert answered[unfit.version] == 0
        before = answered[good.version]
        world.wait(lambda _: answered[good.version] > before + 10)
    assert answered["failed"] == 0
    assert set(answered) == {good.version}
    assert all(decision.weight == 0 for decision in world.log)
    assert not [d for d in world.log if "before the deadline" in d.reason]
