"""Every order and every wish in every phase; windows that come late or twice; a sticky client."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import get_args

import pytest
from tests.unit.rollout_world import IN_FLIGHT, TOTAL, World, plan

from tidemill.domain.rollout.model import Action, Command


def brought_to(phase: str) -> World:
    """Return a world whose canary v2 has just come to a phase, which nobody keeps it in."""
    world = World(plan(scale_down_seconds=3))
    world.deploy()
    world.bring_to(phase)
    if phase == "paused":
        world.change(paused=False)
    return world


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("phase", IN_FLIGHT)
def test_an_order_is_carried_out_once_in_any_phase(phase, action):
    world = brought_to(phase)
    order = Command("the same", action, "v2", reason="INC-7")
    world.change(command=order)
    world.settle()
    decided = len(world.store.log)
    world.restart()
    world.change(command=order)
    world.settle()
    assert len(world.store.log) == decided, "repeated, it is no order"
    world.run_until("stable")
    world.run(1)
    assert world.total() == TOTAL
    assert world.traffic.failed == 0
    undone = phase == "rolling_back" or action == "abort"
    assert world.state.stable.revision == ("v1" if undone else "v2")


@pytest.mark.parametrize("phase", IN_FLIGHT)
def test_orders_about_another_revision_are_ignored_in_any_phase(phase):
    world, alone = brought_to(phase), brought_to(phase)
    for action in get_args(Action):
        world.change(command=Command(f"late {action}", action, "v0", reason="INC-7"))
        world.settle()
    alone.settle()
    for one in (world, alone):
        one.run_until("stable")
    ignored = [d.action for d in world.store.log if "v0" in d.reason]
    assert ignored == ["ignore"] * len(get_args(Action))
    rest = [(d.action, d.reason) for d in world.store.log if "v0" not in d.reason]
    assert rest == alone.log
    assert world.gateway.weights() == alone.gateway.weights()


@pytest.mark.parametrize("phase", IN_FLIGHT[:-1])
def test_the_same_revision_again_begins_nothing_in_any_phase(phase):
    world = brought_to(phase)
    world.want("v2")
    world.run_until("stable")
    world.run(5)
    assert world.state.stable.revision == "v2"
    assert world.actions.count("begin") == 1


@pytest.mark.parametrize("phase", IN_FLIGHT)
def test_stable_is_wanted_again_in_any_phase(phase):
    world = brought_to(phase)
    world.want("v1")
    world.run(5)
    world.run_until("stable")
    world.run(60)
    assert (world.phase, world.state.stable.revision) == ("stable", "v1")
    assert world.weight("v1") == TOTAL
    assert world.traffic.failed == 0


def test_a_skipped_step_is_left_at_once_and_the_release_says_so():
    world = brought_to("progressing")
    world.command("skip", "v2", "c5")
    world.settle()
    assert world.log[-1] == ("weight", "step c5: skip was asked for")
    assert world.weight("v2") == 2500
    world.command("skip", "v2", "c5")
    world.settle()
    assert world.log[-1] == ("ignore", "skip: the rollout is at step c25, not c5")
    world.run_until("stable")
    assert world.releases.told[-1].reason == "the gates passed, but not of c5"


def test_the_last_step_is_skipped_to_all_traffic():
    world = brought_to("progressing")
    for _ in plan().steps:
        world.command("skip", "v2")
        world.settle()
    assert world.log[-2] == ("promote", "step c50: skip was asked for")
    assert world.weight("v2") == TOTAL
    world.run_until("stable")
    assert world.releases.told[-1].reason == "no gate passed: its steps were skipped or undecided"


def test_a_step_that_harms_is_skipped_by_nobody():
    world = World(plan(on_harm="freeze"))
    world.rates(v2=0.5)
    world.deploy()
    world.want("v2")
    world.run_until("paused")
    world.command("skip", "v2")
    world.settle()
    why = "skip: harm was found: abort it, or promote it on your own authority"
    assert world.log[-1] == ("ignore", why)


def test_harm_that_has_just_been_found_is_skipped_by_nobody():
    world = World(plan(steps=(replace(plan().steps[0], min_events=10**6),)))
    world.deploy()
    world.bring_to("progressing")
    world.run(3)
    world.rates(v2=0.9)
    world.now += timedelta(seconds=1)
    world.traffic.send(4000)
    world.command("skip", "v2")
    world.settle()
    assert [action for action, _ in world.log[-2:]] == ["ignore", "rollback"]
    assert world.weight("v2") == 0


def test_a_harmful_canary_with_no_way_back_gets_no_more_by_a_skip():
    world = brought_to("progressing")
    world.servers.broken = {"v1"}
    world.rates(v2=0.9)
    world.run_until("paused")
    assert world.state.attempt.pause == "no way back"
    world.command("skip", "v2")
    world.settle()
    assert world.log[-1][1].startswith("skip: harm was found")
    assert world.weight("v2") == 500


def test_a_pause_by_a_person_is_lifted_before_a_step_is_skipped():
    world = World(plan())
    world.deploy()
    world.bring_to("paused")
    world.command("skip", "v2")
    world.settle()
    assert world.log[-1] == ("ignore", "skip: the specification says paused")


def test_a_step_with_too_few_servers_for_the_next_is_not_skipped():
    world = brought_to("progressing")
    world.servers.broken = {"v2"}
    world.command("skip", "v2")
    world.settle()
    why = "skip: the canary's servers are not ready for 25 % of the traffic"
    assert ("ignore", why) in world.log


def test_an_undecided_step_that_goes_on_is_no_gate_that_passed():
    endless = replace(plan().steps[0], min_events=10**6, max_seconds=20)
    world = World(plan(on_inconclusive="continue", steps=(endless, *plan().steps[1:])))
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    assert world.releases.told[-1].reason == "the gates passed, but not of c5"


def consumed(world: World) -> int:
    """Return the requests that evidence has counted in this attempt, under every weight."""
    attempt = world.state.attempt
    assert attempt
    return sum(sum(piece.requests) for piece in attempt.evidence.series["requests"])


def test_a_window_that_comes_late_or_twice_is_counted_once():
    world = World(plan(steps=(replace(plan().steps[0], min_events=10**6),)))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(3)
    before = consumed(world)
    for _ in range(3):  # the same counters again, also for a controller that has just started
        world.now += timedelta(seconds=1)
        world.restart()
        world.settle()
    assert consumed(world) == before
    world.traffic.unreadable = {"v2"}
    world.run(5)
    assert consumed(world) == before
    world.traffic.unreadable = set()
    world.run(1)
    assert consumed(world) == before + 6 * 200


def test_a_client_that_sticks_to_the_canary_blocks_the_gates():
    world = brought_to("progressing")
    world.run(1)
    send = world.traffic.send

    def sticky(requests: int) -> None:
        send(requests * 3 // 4)
        kept = world.gateway.route
        (canary,) = [b for b in kept.backends if b.revision == "v2"]
        world.gateway.route = replace(kept, backends=(replace(canary, weight=TOTAL),))
        send(requests // 4)
        world.gateway.route = kept

    world.traffic.send = sticky
    world.run(30)
    assert world.weight("v2") == 500
    assert world.condition("TrafficVerified") == ("False", "SampleRatioMismatch")
