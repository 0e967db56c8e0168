"""Clocks that are set anew, and controllers that were away: no wait ends by it, none is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.unit.rollout_world import START, World, plan

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.steady import SLACK_SECONDS

HOLD, LOOKS = 150.0, 40
AWAY = timedelta(hours=10)
JUMPS = [timedelta(hours=72), timedelta(hours=-72), timedelta(seconds=-30)]
MOST = 1 + SLACK_SECONDS
"""Seconds that one look may count in these plans."""


def held(**changes: object) -> World:
    """Return a world in its only step, which passes at once but for its shortest stay."""
    step = replace(plan().steps[0], min_events=1, min_seconds=HOLD, max_seconds=10**6)
    world = World(plan(steps=(step,), **changes))
    world.deploy()
    world.bring_to("progressing")
    return world


def seconds_until(world: World, phase: str) -> int:
    """Let seconds pass until the phase is entered; return how many."""
    before = world.now
    world.run_until(phase, limit=2000)
    return int((world.now - before).total_seconds())


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_jump_adds_one_look_at_most_to_a_hold(jump):
    calm, jumped = held(), held()
    for world in (calm, jumped):
        world.run(LOOKS)
    jumped.now += jump
    whole, rest = seconds_until(calm, "promoting"), seconds_until(jumped, "promoting")
    assert whole - MOST <= rest <= whole + 1


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_jump_in_a_pause_ends_no_hold(jump):
    calm, jumped = held(), held()
    for world in (calm, jumped):
        world.run(LOOKS)
        world.change(paused=True)
        world.run(LOOKS)
    jumped.now += jump
    for world in (calm, jumped):
        world.run(1)
        world.change(paused=False)
    whole, rest = seconds_until(calm, "promoting"), seconds_until(jumped, "promoting")
    assert whole - MOST <= rest <= whole + 1


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_jump_takes_no_way_back_away(jump):
    calm, jumped = (held(scale_down_seconds=120) for _ in range(2))
    for world in (calm, jumped):
        world.run_until("finalizing", limit=2000)
        world.run(LOOKS)
    jumped.now += jump
    whole, rest = seconds_until(calm, "stable"), seconds_until(jumped, "stable")
    assert whole - MOST <= rest <= whole + 1


def test_a_jump_is_no_deadline():
    world = World()
    world.deploy()
    world.servers.broken = {"v2"}
    world.want("v2")
    world.run(5)
    world.now -= timedelta(hours=72)
    world.run(40)
    assert world.phase == "preparing"
    assert seconds_until(world, "rolling_back") <= 30, "nor is the deadline put off"


def test_a_clock_that_is_turned_back_leaves_the_protection():
    world = held()
    world.run(LOOKS)
    world.now -= timedelta(hours=72)
    world.rates(v2=0.9)
    assert seconds_until(world, "rolling_back") < 30


def test_a_clock_that_is_turned_back_hides_no_missing_evidence():
    world = held()
    world.run(LOOKS)
    world.now -= timedelta(hours=72)
    world.traffic.unreadable = {"v2"}
    assert seconds_until(world, "paused") <= 40
    assert world.state.attempt.pause == "evidence"


def test_a_jump_makes_no_gap_small():
    """Six seconds of thirty are lost; three days that nobody saw pass do not outweigh them."""
    step = replace(plan().steps[0], min_events=1)
    world = World(plan(steps=(replace(step, min_seconds=20),)))
    world.deploy()
    world.bring_to("progressing")
    world.run(10)
    world.traffic.unreadable = {"v2"}
    world.run(6)
    world.servers.restart("v2")
    world.traffic.unreadable = set()
    world.run(2)
    world.now += timedelta(hours=72)
    world.run(5)
    assert world.phase == "progressing"
    assert any("of evidence lost" in c.message for c in world.state.conditions)


def test_a_controller_that_was_away_begins_no_wait_anew():
    world = held()
    world.run(LOOKS)
    world.now += timedelta(hours=10)
    world.restart()
    assert HOLD - LOOKS - MOST <= seconds_until(world, "promoting") <= HOLD - LOOKS + 1


def test_a_controller_that_is_away_right_after_it_began_gives_the_canary_its_time():
    world = World()
    world.deploy()
    world.want("v2")
    world.now += timedelta(seconds=1)
    world.controller.tick()
    assert world.phase == "preparing"
    world.now += AWAY
    world.run_until("progressing")


@pytest.mark.parametrize("policy", ["pause", "rollback"])
def test_one_look_without_evidence_after_a_night_is_not_a_night_without(policy):
    world = held(on_missing_evidence=policy)
    world.run(LOOKS)
    world.now += AWAY
    world.traffic.unreadable = {"v2"}
    world.run(1)
    world.traffic.unreadable = set()
    assert world.phase == "progressing"
    assert HOLD - LOOKS - MOST <= seconds_until(world, "promoting") <= HOLD - LOOKS + 1


@pytest.mark.parametrize("astray", [False, True])
def test_evidence_that_is_lost_over_a_night_is_one_look_of_it(astray):
    """The servers began anew, or somebody else's route was in force, when the night was over."""
    world = held(max_gap=0.1)
    world.run(LOOKS)
    world.now += AWAY
    if astray:
        ours = world.gateway.route
        flipped = tuple(replace(b, weight=TOTAL - b.weight) for b in ours.backends)
        world.gateway.edited = world.gateway.route = replace(ours, backends=flipped)
    else:
        world.servers.restart("v2")
    world.run(1)
    assert world.state.attempt.evidence.gap_seconds <= MOST
    assert seconds_until(world, "promoting") <= HOLD


def test_a_short_stay_is_not_ended_by_a_jump_either():
    step = replace(plan().steps[0], min_events=1, min_seconds=55, max_seconds=10**6)
    world = World(plan(steps=(step,)))
    world.deploy()
    world.bring_to("progressing")
    world.run(10)
    world.now += AWAY
    world.run(5)
    assert world.phase == "progressing"


class Fast:
    """A replay: the project's clock moves an hour a look, whatever the wall's does."""

    poll_seconds = 1.0

    def __init__(self) -> None:
        self._hours = 0

    def now(self) -> datetime:
        self._hours += 1
        return START + timedelta(hours=self._hours)


def test_a_replay_counts_its_own_hours_whatever_the_walls_clock_does():
    step = replace(plan().steps[0], min_events=1, min_seconds=86400, max_seconds=10**6)
    world = World(plan(steps=(step,)))
    world.deploy()
    world.controller._clock = Fast()
    world.bring_to("progressing")
    world.now -= timedelta(seconds=30)
    assert seconds_until(world, "promoting") <= 25
