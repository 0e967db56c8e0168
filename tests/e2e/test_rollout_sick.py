"""Models that fail behind a real Envoy: both arms at once, stable alone. What fails is ONNX
Runtime, on rows that a model cannot take; what clients ask decides when they come.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.bundles import LONG, LONGEST, SHORT, make_bundle
from tests.rollout_machine import RolloutMachine, started
from tests.shadowed import asking, over_http

from tidemill.domain.rollout.model import Revision, State
from tidemill.testing.models import MANIFEST

pytestmark = pytest.mark.slow

MODEL = "sick-flights"
METRICS = [{"name": "errors", "event": "error", "pass_ratio": 2.0, "max_rate": 0.05}]


class World(RolloutMachine):
    """Versions of a model, some of which fail for long distances."""

    def release(self, name: str, scale: float, longest: int | None = None) -> Revision:
        bundle = make_bundle(self.folder / name, MODEL, scale, longest, MANIFEST.features)
        return self.sign(bundle)

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(c for c in self.state.conditions if c.type == kind)
        return found.status, found.reason


Make = Callable[..., AbstractContextManager[World]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(*steps: dict[str, Any], **policy: Any) -> AbstractContextManager[World]:
        rollout = {"steps": list(steps), "analysis": {"metrics": METRICS}, **policy}
        return started(World(tmp_path, monkeypatch, MODEL, rollout))

    return made


def both_above(state: State) -> bool:
    """Whether either arm is shown to fail more often than `max_rate`."""
    assert state.attempt
    (errors,) = state.attempt.assessments
    return errors.log_e_guard is not None and min(errors.log_e_guard) >= errors.guard_at


@pytest.mark.parametrize(
    ("phase", "events"),
    [("progressing", 100_000), ("finalizing", 100)],
    ids=["in a later step", "after its promotion"],
)
def test_a_canary_that_begins_to_fail_is_taken_back(make: Make, phase: str, events: int) -> None:
    steps = (
        {"name": "c20", "weight": 2000, "min_events": 50},
        {"name": "c50", "weight": 5000, "min_events": events},
    )
    with make(*steps, scale_down_seconds=300.0) as world:
        good, sick = world.release("a", 0.001), world.release("b", 0.0011, LONGEST)
        world.deploy(good)
        rows = [SHORT]
        with asking(over_http(world.url), 4, rows) as answered:
            world.start(sick)
            world.wait(lambda s: s.phase == phase and s.weight > 2000)
            rows.append(LONG)
            back = world.wait(lambda s: s.phase == "stable" and bool(s.history))
        (ended,) = back.history
        assert (ended.outcome, ended.reason[:14]) == ("rolled_back", "harm in errors")
        assert back.stable == good
        assert answered[sick.version] > 0
        assert answered["failed"] == 0


def test_both_arms_failing_at_once_pauses_and_blames_nobody(make: Make) -> None:
    with make({"name": "c50", "weight": 5000, "min_events": 100_000}) as world:
        good, same = world.release("a", 0.001, LONGEST), world.release("b", 0.0011, LONGEST)
        world.deploy(good)
        rows = [SHORT]
        with asking(over_http(world.url), 4, rows) as answered:
            world.start(same)
            world.wait(lambda s: s.weight == 5000)
            world.wait(lambda _: answered[same.version] > 20)
            rows.append(LONG)  # from now on every other request is one that neither can score
            paused = world.wait(lambda s: s.phase == "paused")
            assert (paused.weight, world.condition("Stalled")) == (5000, ("True", "Unhealthy"))
            assert world.log[-1].reason.endswith("above max_rate in errors")
            world.wait(both_above)
            assert world.state.phase == "paused", "the harm test goes on and blames nobody"
            rows.pop()
            world.abort()
            refused = world.wait(lambda s: s.phase == "stable" and bool(s.history))
        assert refused.history[0].reason == "abort was asked for"
        assert refused.stable == good
        assert answered["failed"] == 0, "the share of the event answers for a model that fails"
        assert [d.action for d in world.log].count("rollback") == 1, "the abort's"


def test_a_failing_stable_freezes_the_rollout_of_its_cure(make: Make) -> None:
    with make({"name": "c50", "weight": 5000, "min_events": 100_000}) as world:
        sick, cure = world.release("a", 0.001, LONGEST), world.release("b", 0.0011)
        world.deploy(sick)
        with asking(over_http(world.url), 4, [SHORT, LONG]) as answered:
            world.start(cure)
            paused = world.wait(lambda s: s.phase == "paused")
            assert (paused.weight, paused.stable) == (5000, sick)
            assert world.log[-1].reason == "stable is above max_rate in errors"
            assert world.condition("StableHealthy") == ("False", "AboveMaxRate")
            assert not [a for a in world.log[-1].evidence if a.verdict == "harm"]
            world.wait(lambda _: answered[cure.version] > 20)  # it keeps what it has
            assert world.state.phase == "paused"
        assert answered["failed"] == 0


def test_a_failing_stable_is_replaced_where_the_policy_says_proceed(make: Make) -> None:
    step = {"name": "c50", "weight": 5000, "min_events": 300, "gate": ["errors"]}
    with make(step, on_stable_unhealthy="proceed") as world:
        sick, cure = world.release("a", 0.001, LONGEST), world.release("b", 0.0011)
        world.deploy(sick)
        with asking(over_http(world.url), 4, [SHORT, LONG]) as answered:
            world.start(cure)
            done = world.wait(lambda s: s.phase == "stable" and bool(s.history))
        assert done.history[0].outcome == "promoted"
        assert done.stable == cure
        assert answered["failed"] == 0
        judged = next(d for d in world.log if d.action == "promote").evidence
        assert any(a.stable_unhealthy for a in judged), "it was seen, and the cure went on"
