"""What people are shown of a shadow step: before it, during it, in the log."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from rich.console import Console, RenderableType
from tests.unit.rollout_world import World, plan
from tests.unit.test_rollout_pairs import FLIP

from tidemill.adapters.kubernetes.status import ModelRolloutStatus, make_status
from tidemill.cli.pairs import pairs_needed, pairs_seen
from tidemill.cli.rollout import _line
from tidemill.domain.rollout.forecast import pairs_to_pass, seconds_to_leave
from tidemill.domain.rollout.model import Condition, Step

SHADOW = Step("shadow", 0, ("disagreement",), 1000, 0, 600, False, mirror=2000)
PLAN = plan(steps=(SHADOW, *plan().steps), paired=(FLIP,))


def text(parts: Iterable[RenderableType]) -> str:
    console = Console(width=200, record=True)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


@pytest.fixture(scope="module")
def world() -> World:
    made = World(PLAN)
    made.traffic.differs = {"v2": {"disagreement": 0.01}}
    made.deploy()
    made.want("v2")
    made.run_until("progressing", step="shadow")
    made.run(4)
    return made


def test_the_plan_tells_how_many_pairs_it_takes():
    shown = text(pairs_needed(PLAN))
    for expected in ("shadow", "20 %", "disagreement", "5.00%", "118", "839"):
        assert expected in shown
    assert pairs_needed(plan()) == []


def test_a_step_takes_as_long_as_its_pairs():
    at_ten, at_twenty = (seconds_to_leave(PLAN, SHADOW, rate, 0.1) for rate in (10.0, 20.0))
    needed = max(SHADOW.min_events, pairs_to_pass(FLIP, PLAN.tolerance, 0.5))
    assert at_ten == 2 * at_twenty == needed / 2


def test_the_status_tells_pairs_limits_and_losses(world: World):
    shown = text(pairs_seen(world.state.attempt))
    pairing = world.state.attempt.evidence.pairing
    assert f"{pairing.matched:,} pairs of {pairing.due:,.0f} mirrored requests" in shown
    assert "at most 5%" in shown
    assert "5.00%" in shown
    assert pairs_seen(World(plan()).state.attempt or _without()) == []


def _without():
    other = World()
    other.deploy()
    other.want("v2")
    other.run_until("progressing")
    return other.state.attempt


def test_the_log_tells_a_mirror_from_a_weight(world: World):
    begun = next(d for d in world.store.log if d.reason.startswith("step shadow begins"))
    assert "~20 %" in _line(begun)


def test_the_resource_tells_it_too(world: World):
    said = Condition("SpecValid", "True", "Valid")
    body = make_status({}, world.state, world.store.log[-1], said, (1, 1), None, world.now)
    found = ModelRolloutStatus.model_validate(body)
    (metric,) = found.paired or ()
    assert found.mirror == 2000
    assert metric.rate.endswith("limit 5.00%")
    assert found.lost is not None
    assert (found.decisions or [])[-1].mirror == 2000
    assert "paired" not in body["decisions"][-1]
