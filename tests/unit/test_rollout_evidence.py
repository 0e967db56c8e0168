"""What the controller makes of evidence: none, lost, of two sick arms, a wrong split, late."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.rollout_world import NAME, START, World, plan

from tidemill.domain.rollout.readings import Cohort, Reading


def test_no_traffic_is_undecided_then_inconclusive():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(3700, requests=0)
    assert world.phase == "paused"
    assert world.state.attempt.pause == "inconclusive"
    assert world.condition("Stalled") == ("True", "Inconclusive")
    world.command("resume", "v2")
    world.run_until("finalizing")


@pytest.mark.parametrize(("policy", "phase"), [("pause", "paused"), ("rollback", "rolling_back")])
def test_missing_evidence_is_neither_health_nor_harm(policy, phase):
    world = World(plan(on_missing_evidence=policy))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(2)
    world.traffic.unreadable = {"v2"}
    world.run(29)
    assert world.phase == "progressing"
    assert world.weight("v2") == 500
    world.run_until(phase, limit=5)
    assert "no evidence" in world.store.log[-1].reason
    if policy == "pause":
        world.traffic.unreadable = set()
        world.run_until("finalizing")


def test_a_counter_reset_is_a_gap_that_blocks_until_it_is_small():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(3)
    world.servers.restart("v2")
    world.run(2)
    assert world.state.attempt.evidence.gap_seconds == 1.0
    assert "evidence lost" in world.message("Progressing")
    world.run(15)
    assert world.phase == "progressing"
    assert world.weight("v2") == 500
    world.run_until("finalizing")


def test_both_arms_failing_freezes_instead_of_blaming_the_canary():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.rates(v1=0.6, v2=0.6)
    world.run_until("paused")
    world.run(60)
    assert world.condition("Stalled") == ("True", "Unhealthy")
    assert "rollback" not in world.actions


def test_both_arms_failing_at_half_the_traffic_is_nobodys_fault():
    for seed in range(20):
        steps = (replace(plan().steps[2], gate=(), min_events=5000),)
        world = World(plan(steps=steps), seed=seed)
        world.deploy()
        world.rates(v1=0.3, v2=0.3)
        world.want("v2")
        world.run(20)
        assert world.phase == "paused"


@pytest.mark.parametrize(("policy", "end"), [("freeze", "paused"), ("proceed", "finalizing")])
def test_a_failing_stable_freezes_or_lets_the_cure_proceed(policy, end):
    world = World(plan(on_stable_unhealthy=policy))
    world.deploy()
    world.rates(v1=0.6, v2=0.02)
    world.want("v2")
    world.run_until(end)


def test_a_wrong_split_blocks_the_gates_and_quarantines_the_weight():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(1)
    send = world.traffic.send
    other = replace(world.gateway.route)

    def skewed(requests: int) -> None:
        kept, world.gateway.route = world.gateway.route, _half(world.gateway.route)
        send(requests)
        world.gateway.route = kept

    world.traffic.send = skewed
    world.run(30)
    assert other
    assert world.phase == "progressing"
    assert world.weight("v2") == 500
    assert world.condition("TrafficVerified") == ("False", "SampleRatioMismatch")
    assert world.state.attempt.assessments[0].verdict == "missing"


def _half(route):
    return replace(
        route, backends=tuple(replace(backend, weight=5000) for backend in route.backends)
    )


def test_matured_labels_roll_back_and_are_counted_once():
    world = World(plan(steps=(replace(plan().steps[0], gate=("wrong",), max_seconds=1e6),)))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(3)
    epoch = world.state.epoch
    for hour in range(1, 200):
        cohort = Cohort(epoch, 500, (380, 20), (370, 20), ((20, 40, 6), (6, 60, 5)))
        until = START + timedelta(hours=hour)
        world.traffic.outcomes = Reading(cohorts=(cohort,), matured_until=until)
        world.run(2)
        if world.phase != "progressing":
            break
        segments = world.state.attempt.evidence.series["wrong"]
        assert sum(s.trials[1] for s in segments) == 20 * hour, "read twice, counted once"
    assert world.phase in ("rolling_back", "stable")
    assert "harm in wrong" in str(world.log)


def test_a_label_shortage_is_missing_evidence():
    world = World(plan(steps=(replace(plan().steps[0], gate=("wrong",)),)))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.run(2)
    cohort = Cohort(world.state.epoch, 500, (9500, 500), (9000, 200), ((20, 10, 100),))
    world.traffic.outcomes = Reading(cohorts=(cohort,), matured_until=START + timedelta(hours=1))
    world.run(2)
    found = next(a for a in world.state.attempt.assessments if a.metric == "wrong")
    assert found.verdict == "missing"
    assert world.phase == "progressing"


def test_decisions_carry_their_numbers():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    promoted = next(d for d in world.store.log if d.action == "promote")
    errors = next(a for a in promoted.evidence if a.metric == "errors")
    assert errors.verdict == "pass"
    assert errors.log_e_pass >= errors.pass_at
    assert errors.ratio[0] < 1.2 < 2.0
    assert [d.seq for d in world.store.log] == list(range(1, len(world.store.log) + 1))
    assert world.store.spec(NAME).desired.revision == "v2"
