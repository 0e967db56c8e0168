"""The rollback window: what served all traffic before comes back without steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.rollout_world import World, plan

from tidemill.domain.rollout.freeze import make_freeze

ALWAYS = make_freeze(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "00:00", "00:00", "UTC")


def served(window: int, *names: str) -> World:
    """A world in which these versions were stable, one after the other."""
    world = World(plan(rollback_window=window, scale_down_seconds=1))
    world.deploy()
    for name in names:
        world.rates(**{name: 0.02})
        world.want(name)
        world.run_until("finalizing")
        world.run_until("stable")
    return world


def weights(world: World) -> list[int]:
    number = world.state.attempts
    return [d.weight for d in world.store.log if d.attempt == number and d.action == "weight"]


@pytest.mark.parametrize(("window", "steps"), [(0, 3), (1, 3), (2, 0)])
def test_a_recent_revision_comes_back_without_steps(window, steps):
    world = served(window, "v2", "v3")
    assert world.state.served == ("v2", "v1")
    world.want("v1")
    world.run_until("finalizing")
    world.run_until("stable")
    assert world.state.stable.revision == "v1"
    assert len(weights(world)) == steps
    assert world.state.served == ("v3", "v2")
    why = "back to a revision that served before" if not steps else "all gates passed"
    assert world.releases.told[-1].reason == why
    assert world.traffic.failed == 0


def test_it_must_be_ready_for_all_traffic_first():
    world = served(1, "v2")
    world.servers.broken = {"v1"}
    world.want("v1")
    world.run(20)
    assert (world.phase, world.weight("v1")) == ("preparing", 0)
    world.servers.broken = set()
    world.run_until("stable")
    assert world.traffic.failed == 0


def test_what_harms_now_goes_back_again():
    world = served(1, "v2")
    world.change(plan=replace(world.plan, scale_down_seconds=60))
    world.plan = replace(world.plan, scale_down_seconds=60)
    world.want("v1")
    world.run_until("finalizing")
    world.rates(v1=0.9)
    world.run_until("rolling_back")
    world.run_until("stable")
    world.run(1)
    assert world.state.stable.revision == "v2"
    assert world.state.served == (), "what harmed on its way back is a canary like any other"


def test_a_window_that_is_frozen_lets_it_back():
    world = served(1, "v2")
    world.plan = replace(world.plan, freeze=(ALWAYS,))
    world.want("v1")
    world.run_until("finalizing", limit=10)
