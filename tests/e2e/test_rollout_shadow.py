"""A shadow step, every part real: Envoy mirrors the requests of clients that never pause, real
servers answer them, the controller reads both arms' answers and decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import polars as pl
import pytest
from tests.rollout_machine import RolloutMachine, started
from tests.shadowed import asking, over_http

from tidemill.domain.rollout.model import Revision
from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow

MODEL = "shadowed-flights"
PAIRED = [
    {"name": "disagreement", "event": "flip", "max_rate": 0.05, "alpha_share": 0.3},
    {"name": "failures", "event": "failed", "max_rate": 0.05, "alpha_share": 0.3},
]
STEPS = [
    {
        "name": "shadow",
        "shadow": {"percent": 50},
        "gate": ["disagreement", "failures"],
        "min_events": 150,
    },
    {"name": "c50", "weight": 5000, "min_events": 50},
]
METRICS = [{"name": "errors", "event": "error", "max_rate": 0.05}]


class World(RolloutMachine):
    """Versions whose scores differ by a constant, and what their servers counted and logged."""

    def release(self, bias: float) -> Revision:
        manifest = replace(MANIFEST, name=MODEL)
        return self.sign(write_bundle(self.folder / str(bias), manifest=manifest, bias=bias))

    def counted(self, wanted: Revision) -> Counter[str]:
        """What a server counts of its requests and shadows, by metric and outcome."""
        text = httpx.get(f"{self.address(wanted)}/metrics").text
        found: Counter[str] = Counter()
        for line in text.splitlines():
            for name in ("tidemill_requests_total", "tidemill_shadow_requests_total"):
                if line.startswith(name) and float(line.rpartition(" ")[2]):
                    found[name] += int(float(line.rpartition(" ")[2]))
        return found

    def logged(self, wanted: Revision) -> int:
        """Rows of a revision in the prediction log, the rehearsal's left out."""
        files = (self.project.root / ".tidemill/objects/predictions").rglob("*.parquet")
        rows = [pl.read_parquet(file, columns=["revision", "request_id"]) for file in files]
        mine = pl.concat(rows).filter(pl.col("revision") == wanted.reported)
        return mine.filter(pl.col("request_id") != "rehearsal").height


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    rollout = {"steps": STEPS, "analysis": {"metrics": METRICS, "paired": PAIRED}}
    with started(World(tmp_path, monkeypatch, MODEL, rollout)) as world:
        yield world


def test_a_model_that_agrees_goes_on_and_one_that_does_not_never_meets_a_client(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good, same, bad = world.release(-1.0), world.release(-1.001), world.release(-9.0)
    world.deploy(good)
    with asking(over_http(world.url), 4) as answered:
        world.start(same)
        shadowing = world.wait(lambda s: bool(s.attempt and s.attempt.evidence.pairing.matched))
        assert (shadowing.weight, shadowing.mirror) == (0, 5000)
        counted = world.counted(same)
        assert counted["tidemill_shadow_requests_total"] > 0
        assert counted["tidemill_requests_total"] == 1, "the rehearsal alone"
        assert world.logged(same) == 0
        assert answered[same.version] == 0
        world.wait(lambda s: s.weight == 5000)
        promoted = world.wait(lambda s: s.phase == "stable" and bool(s.history))
        assert promoted.history[0].outcome == "promoted"

        world.start(bad)
        refused = world.wait(lambda s: s.closed == bad.revision)
    assert refused.history[0].outcome == "rolled_back"
    assert "harm in disagreement" in refused.history[0].reason
    assert answered["failed"] == answered[bad.version] == 0
    assert world.logged(bad) == 0
    passed = next(d for d in world.log if d.reason == "step shadow: gate passed")
    assert [a.verdict for a in passed.paired] == ["pass", "pass"]
    with capsys.disabled():
        found = {a.metric: (a.events, a.pairs) for a in passed.paired}
        print(f" {answered.total()} requests, {answered['failed']} failed; {found}")
