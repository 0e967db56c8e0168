"""The rollout's behaviour, scenario by scenario, on the real controller and a world of fakes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import TypeAdapter
from tests.unit.rollout_world import IN_FLIGHT, World, plan

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.freeze import make_freeze
from tidemill.domain.rollout.model import State


def test_first_deployment_needs_no_analysis():
    world = World()
    world.deploy()
    assert world.actions == ["initialize", "deploy"]
    assert world.weight("v1") == TOTAL
    assert [(r.kind, r.champion.revision) for r in world.releases.told] == [("promoted", "v1")]
    assert world.condition("Promoted") == ("True", "Promoted")


def test_a_first_deployment_is_promoted_once_its_route_is_in_force():
    world = World()
    world.gateway.stuck = True
    world.want("v1")
    world.settle()
    world.run(5)
    assert world.actions == ["initialize", "deploy"]
    assert world.condition("Promoted") == ("False", "InFlight")
    assert world.state.serving is None
    world.gateway.stuck = False
    world.run(2)
    assert world.condition("Promoted") == ("True", "Promoted")
    assert world.state.serving == world.state.stable


def test_a_healthy_canary_walks_through_every_step_and_takes_over():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    assert world.weight("v2") == TOTAL
    assert set(world.servers.running) == {"v1", "v2"}, "stable stays up for the way back"
    world.run_until("stable")
    world.run(2)
    assert [d.weight for d in world.store.log if d.action == "weight"] == [500, 2500, 5000]
    assert set(world.servers.running) == {"v2"}
    assert world.state.history[0].outcome == "promoted"
    assert world.releases.told[-1].champion.revision == "v2"
    assert world.traffic.failed == 0


@pytest.mark.parametrize("bad_from", ["c5", "c25", "c50", "promoting", "finalizing"])
def test_harm_sends_everything_back_in_every_step(bad_from):
    world = World(plan(scale_down_seconds=60))
    world.deploy()
    world.want("v2")
    in_a_step = bad_from.startswith("c")
    world.run_until("progressing" if in_a_step else bad_from, step=bad_from if in_a_step else "")
    world.rates(v2=0.9)
    world.run_until("rolling_back")
    reason = world.store.log[-1].reason
    assert "harm in errors" in reason
    world.run_until("stable")
    world.run(1)
    assert world.weight("v1") == TOTAL
    assert "v2" not in world.gateway.weights()
    assert set(world.servers.running) == {"v1"}
    assert world.state.history[0].outcome == "rolled_back"
    assert world.releases.told[-1].champion.revision == "v1"


def test_a_failed_revision_is_not_tried_again_until_someone_says_retry():
    world = World()
    world.deploy()
    world.rates(v2=0.9)
    world.want("v2")
    world.run_until("rolling_back")
    world.run(30)
    assert world.state.attempts == 1
    world.command("retry", "v1")
    world.run(2)
    assert "not the revision that failed" in world.log[-1][1]
    world.rates(v2=0.02)
    world.command("retry", "v2")
    world.run_until("finalizing")
    assert world.state.attempts == 2


def test_pause_freezes_the_weight_and_keeps_protecting():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.change(paused=True)
    world.run(100)
    assert world.phase == "paused"
    assert world.weight("v2") == 500
    assert world.state.attempt.paused_since is not None
    world.rates(v2=0.9)
    world.run_until("rolling_back")


def test_a_paused_rollout_goes_on_where_it_stood():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.change(paused=True)
    world.run(5000, requests=0)
    world.change(paused=False)
    world.run_until("finalizing")
    assert "undecided" not in str(world.log), "the pause did not count as time of the step"


def test_approval_is_waited_for_and_bound_to_step_and_revision():
    steps = (replace(plan().steps[0], approval=True),)
    world = World(plan(steps=steps))
    world.deploy()
    world.want("v2")
    world.run(60)
    assert world.condition("Progressing") == ("True", "WaitingApproval")
    world.command("approve", "v9")
    world.run(1)
    world.command("approve", "v2", "c50")
    world.run(2)
    assert [a for a in world.actions if a == "ignore"] == ["ignore", "ignore"]
    world.command("approve", "v2", "c5")
    world.run_until("finalizing")


def test_a_late_abort_is_a_no_op():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    world.command("abort", "v2")
    world.run(3)
    assert world.log[-1] == ("ignore", "abort: no rollout of v2 is in flight")
    assert world.weight("v2") == TOTAL


@pytest.mark.parametrize("phase", IN_FLIGHT[:-1])
def test_abort_is_legal_in_every_phase(phase):
    world = World(plan(scale_down_seconds=60))
    world.deploy()
    world.servers.broken = {"v2"} if phase == "preparing" else set()
    world.bring_to(phase)
    world.command("abort", "v2")
    world.run(5)
    assert world.phase == "stable"
    assert world.weight("v1") == TOTAL
    assert set(world.servers.running) == {"v1"}


def test_a_new_revision_supersedes_and_the_canary_is_off_before_it_starts():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.settle()
    assert world.weight("v2") == 0
    assert "v3" not in world.servers.running
    world.run_until("progressing")
    assert world.state.attempt.canary.revision == "v3"
    assert world.state.attempt.evidence.series == {}
    assert world.state.stable.revision == "v1"
    assert world.state.history[0].outcome == "superseded"


def test_queued_revisions_wait_and_only_the_newest_is_tried():
    world = World(plan(on_new_revision="queue"))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.want("v4")
    world.rates(v4=0.02)
    world.run_until("finalizing")
    assert world.state.stable.revision == "v2"
    world.run_until("progressing")
    assert world.state.attempt.canary.revision == "v4"


@pytest.mark.parametrize("policy", ["supersede", "queue"])
@pytest.mark.parametrize("phase", IN_FLIGHT)
def test_a_third_revision_comes_in_any_phase(policy, phase):
    world = World(plan(on_new_revision=policy, scale_down_seconds=10))
    world.deploy()
    world.bring_to(phase)
    world.want("v3")
    for _ in range(200):
        world.run(1)
        assert len(world.gateway.weights()) <= 2
        canary = world.state.attempt and world.state.attempt.canary.revision
        if canary == "v3" and world.state.stable.revision != "v2":
            assert world.weight("v2") == 0, "never two canaries"
    assert world.state.stable.revision == "v3"
    assert world.traffic.failed == 0
    ends = {o.revision: o.outcome for o in world.state.history}
    takes_over = phase == "finalizing" or policy == "queue"
    if phase == "rolling_back":
        assert ends["v2"] == "rolled_back"
    else:
        assert ends["v2"] == ("promoted" if takes_over else "superseded")


def test_wanting_stable_again_is_an_abort():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v1")
    world.run(5)
    assert world.phase == "stable"
    assert world.state.history[0].reason == "the stable revision is wanted again"


def test_a_canary_that_crashes_loses_its_traffic_and_gets_it_back():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.servers.broken = {"v2"}
    world.settle()
    assert world.weight("v2") == 0
    assert world.phase == "preparing"
    world.servers.broken = set()
    world.run_until("finalizing")
    assert "hold" in world.actions


def test_a_crash_loop_is_rolled_back():
    world = World()
    world.deploy()
    world.want("v2")
    for _ in range(4):
        world.run_until("progressing")
        world.servers.broken = {"v2"}
        world.run(1)
        world.servers.broken = set()
    world.run(5)
    assert world.state.history[0].outcome == "rolled_back"
    assert "the 4th time" in world.state.history[0].reason


def test_a_canary_that_never_starts_is_rolled_back_at_the_deadline():
    world = World()
    world.deploy()
    world.servers.broken = {"v2"}
    world.want("v2")
    world.run(70)
    assert world.phase == "stable"
    assert "not ready before the deadline" in world.state.history[0].reason
    assert world.traffic.failed == 0


def test_a_route_that_is_not_taken_up_blocks_then_rolls_back():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c25")
    world.gateway.stuck = True
    world.run(30)
    stuck_at = world.state.weight
    assert world.condition("TrafficApplied") == ("False", "Differs")
    assert stuck_at == 2500
    world.run_until("rolling_back")
    assert "did not apply" in world.store.log[-1].reason


REFUSED = "Gateway public: not Accepted: NoMatchingParent"


@pytest.mark.parametrize("phase", ["progressing", "paused"])
def test_a_route_that_is_lost_in_a_step_goes_back_at_the_deadline(phase):
    world = World(plan(steps=(replace(plan().steps[0], min_events=10**6),)))
    world.deploy()
    world.bring_to(phase)
    world.run(5)
    world.gateway.refused = REFUSED
    world.run(40)
    assert (world.phase, world.weight("v2")) == ("paused", 500)
    world.run_until("rolling_back", limit=30)
    assert world.log[-1] == ("rollback", f"the route is no longer in force: {REFUSED}")
    world.run(30)
    assert world.condition("Stalled") == ("False", "No")
    world.run(40)
    assert world.condition("Stalled") == ("True", "RouteNotInForce")
    world.gateway.refused = ""
    world.run_until("stable")
    assert world.weight("v1") == TOTAL


def test_a_route_that_comes_back_before_the_deadline_goes_on():
    world = World()
    world.deploy()
    world.bring_to("progressing")
    for _ in range(3):
        world.run(5)
        world.gateway.refused = REFUSED
        world.run(25)
        world.gateway.refused = ""
        world.run(1)
    assert (world.phase, world.state.astray_since) == ("progressing", None)


def test_a_route_that_is_lost_after_the_promotion_keeps_the_way_back():
    world = World(plan(scale_down_seconds=5))
    world.deploy()
    world.bring_to("finalizing")
    world.gateway.refused = REFUSED
    world.run(100)
    assert world.phase == "finalizing"
    assert set(world.servers.running) == {"v1", "v2"}
    world.gateway.refused = ""
    world.run_until("stable")
    assert world.weight("v2") == TOTAL


def test_a_route_that_is_refused_is_said_in_the_gateways_words():
    world = World()
    world.deploy()
    world.gateway.refused = "Gateway public: not Accepted: NoMatchingParent"
    world.settle()
    assert world.condition("TrafficApplied") == ("False", "RouteNotAccepted")
    said = next(c for c in world.state.conditions if c.type == "TrafficApplied")
    assert said.message == world.gateway.refused
    world.gateway.refused = ""
    world.settle()
    assert world.condition("TrafficApplied") == ("True", "InForce")


def test_what_others_say_at_length_is_kept_short():
    """Ten attempts that each end with all that a gateway, a server, a rehearsal may say."""
    at_length = "no! " * 10_000
    world = World()
    world.deploy()
    for number, name in enumerate(("v2", "v3", "v4") * 4):
        world.gateway.refused = at_length if number % 3 == 0 else ""
        world.servers.refused = {name: at_length} if number % 3 == 1 else {}
        world.traffic.rehearsal = at_length if number % 3 == 2 else ""
        world.want(name)
        world.run_until("rolling_back")
        world.run(1)
        world.gateway.refused = ""
        world.run_until("stable")
    assert len(world.state.history) == 10
    assert len(TypeAdapter(State).dump_json(world.state)) < 20_000


def test_harm_may_freeze_instead_and_a_person_decides():
    world = World(plan(on_harm="freeze"))
    world.deploy()
    world.rates(v2=0.5)
    world.want("v2")
    world.run_until("paused")
    assert world.weight("v2") == 500
    world.command("resume", "v2")
    world.run(2)
    assert world.phase == "paused"
    world.command("promote", "v2")
    world.run_until("finalizing")
    world.run(1)
    assert world.state.attempt.override
    assert world.releases.told[-1].reason == "promoted by a person"


def test_without_a_stable_server_nothing_is_sent_to_nowhere():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.servers.broken = {"v1"}
    world.command("abort", "v2")
    world.run(5)
    assert world.weight("v2") == 500, "weights are kept, there is no way back"
    assert world.condition("Available") == ("False", "StableUnavailable")
    world.servers.broken = set()
    world.run(5)
    assert world.weight("v1") == TOTAL
    assert world.state.history[0].reason == "abort was asked for"


def test_harm_without_a_way_back_needs_a_person():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.servers.broken = {"v1"}
    world.rates(v2=0.9)
    world.run_until("paused")
    assert world.weight("v2") == 500
    assert world.condition("Stalled") == ("True", "StableUnavailable")
    world.servers.broken = set()
    world.run_until("rolling_back")


def test_rollback_needs_nothing_but_the_route():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(1)
    assert world.weight("v2") == 500
    world.servers.silent = True
    world.traffic.unreadable = {"v1", "v2"}
    world.releases.silent = True
    world.command("abort", "v2")
    world.run(2)
    assert world.weight("v1") == TOTAL


def test_a_refused_promotion_goes_back():
    world = World()
    world.deploy()
    world.releases.refuse = "the ledger does not agree with the registry"
    world.want("v2")
    world.run_until("rolling_back")
    assert "refused" in world.store.log[-1].reason
    world.run(3)
    assert world.weight("v1") == TOTAL


def test_a_silent_registry_keeps_the_way_back_open():
    world = World()
    world.deploy()
    world.releases.silent = True
    world.want("v2")
    world.run_until("finalizing")
    world.run(30)
    assert world.phase == "finalizing"
    assert set(world.servers.running) == {"v1", "v2"}
    world.releases.silent = False
    world.run_until("stable")


def test_the_plan_of_an_attempt_does_not_change_under_it():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.plan = plan(steps=(replace(plan().steps[0], weight=9000),))
    world.change(plan=world.plan)
    told = "the plan was edited (steps): this attempt keeps its own, the next one has the new one"
    world.run(1)
    assert world.log[-1] == ("ignore", told)
    assert world.condition("PlanChanged") == ("True", "NextAttempt")
    world.run_until("finalizing")
    assert [d.weight for d in world.store.log if d.action == "weight"] == [500, 2500, 5000]
    assert world.actions.count("ignore") == 1, "it is said once"


def test_a_plan_that_is_as_it_was_is_said_and_a_freeze_is_no_edit():
    world = World()
    world.deploy()
    world.bring_to("progressing")
    world.change(plan=replace(world.plan, freeze=(make_freeze(["mon"], "00:00", "00:00", "UTC"),)))
    world.run(2)
    assert world.condition("PlanChanged") == ("False", "No")
    world.change(
        plan=replace(world.plan, interval_seconds=3600, policy=plan(on_harm="freeze").policy)
    )
    world.settle()
    assert world.controller.tick() == 1, "nor does it look as seldom as the next one will"
    assert "(policy, interval_seconds)" in world.log[-1][1]
    world.change(plan=world.plan)
    world.run(1)
    assert world.log[-1] == ("ignore", "the plan is that of this attempt again")
    assert world.condition("PlanChanged") == ("False", "No")


def finalizing(**policy: object) -> World:
    world = World(plan(scale_down_seconds=5, **policy))
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.rates(v2=0.9)
    return world


def test_harm_without_a_way_back_is_never_finished_as_a_promotion():
    world = finalizing()
    world.servers.broken = {"v1"}
    world.run(30)
    assert world.condition("Stalled") == ("True", "StableUnavailable")
    assert world.phase == "finalizing"
    world.servers.broken = set()
    world.run_until("rolling_back")


@pytest.mark.parametrize(("order", "serves"), [("promote", "v2"), ("abort", "v1")])
def test_harm_after_a_promotion_may_freeze_and_a_person_decides(order, serves):
    world = finalizing(on_harm="freeze")
    world.run(30)
    assert world.condition("Stalled") == ("True", "Harm")
    assert (world.phase, world.weight("v2")) == ("finalizing", TOTAL)
    world.command(order, "v2")
    world.run_until("stable")
    assert world.weight(serves) == TOTAL


def test_what_a_foreign_route_split_is_no_evidence():
    world = World(plan(steps=(replace(plan().steps[0], min_events=10**6),)))
    world.deploy()
    world.bring_to("progressing")
    world.run(3)

    def seen() -> int:
        return sum(sum(part.trials) for part in world.state.attempt.evidence.series["requests"])

    counted = seen()
    ours = world.gateway.route
    flipped = tuple(replace(b, weight=TOTAL - b.weight) for b in ours.backends)
    world.gateway.edited = world.gateway.route = replace(ours, backends=flipped)
    world.now += timedelta(seconds=1)
    world.traffic.send(4000)
    world.settle()
    assert seen() == counted
    assert world.state.attempt.evidence.gap_seconds > 0
    world.run(3)
    assert world.gateway.route == ours, "it was taken back"
    assert counted < seen() < counted + 4000
    assert world.condition("TrafficVerified") == ("True", "Consistent")
