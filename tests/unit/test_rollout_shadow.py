"""The shadow step: pairs decide, clients never meet the canary, what is lost is no evidence."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.rollout_world import World, plan

from tidemill.domain.paired import PairedRate
from tidemill.domain.rollout.model import Backend, Step
from tidemill.domain.rollout.pairs import Pairing, Pairs, add_pairs

SHADOW = Step("shadow", 0, ("disagreement",), 1000, 0, 600, False, mirror=2000)
AFTER = Step("c50", 5000, ("errors",), 600, 0, 7200, False)
DISAGREEMENT = PairedRate("disagreement", "flip", 0.05, 0.1, 0.002)


def shadowed(**changes: object) -> World:
    """A world whose canary is a shadow that disagrees in 1 of 100 pairs."""
    world = World(plan(steps=(SHADOW, AFTER), paired=(DISAGREEMENT,), **changes))
    world.traffic.differs = {"v2": {"disagreement": 0.01}, "v3": {"disagreement": 0.2}}
    world.deploy()
    return world


def test_a_canary_that_agrees_goes_on_to_clients():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    assert world.gateway.route.mirror is None
    world.run(1)
    assert world.gateway.route.mirror == Backend("v2", 2000)
    assert world.weight("v2") == 0
    world.run_until("progressing", step="c50")
    world.run(1)
    assert world.gateway.route.mirror is None
    assert world.weight("v2") == 5000
    world.run_until("stable")
    assert world.state.history[0].outcome == "promoted"
    passed = next(d for d in world.store.log if d.reason == "step shadow: gate passed")
    (found,) = passed.paired
    assert found.verdict == "pass"
    assert found.pairs >= 1000
    assert found.rate[0] < 0.01 < found.rate[1] < 0.05
    assert "step shadow begins, 20 % mirrored" in [d.reason for d in world.store.log]


def test_a_canary_that_disagrees_never_meets_a_client():
    world = shadowed()
    world.want("v3")
    world.run_until("rolling_back")
    world.run_until("stable")
    assert world.state.history[0].outcome == "rolled_back"
    assert "harm in disagreement" in world.state.history[0].reason
    assert {d.weight for d in world.store.log} == {0}
    assert world.traffic.failed == 0
    (release,) = [r for r in world.releases.told if r.kind == "rolled_back"]
    assert release.paired[0].verdict == "harm"


def test_harm_may_hold_it_instead():
    world = shadowed(on_harm="freeze")
    world.want("v3")
    world.run_until("paused")
    assert world.state.attempt.pause == "harm"
    assert (world.state.mirror, world.weight("v3")) == (2000, 0)


def test_what_the_mirror_loses_is_no_evidence_and_blocks_the_gate():
    world = shadowed()
    world.traffic.lost = 0.3
    world.want("v2")
    world.run(30)
    assert world.step == "shadow"
    assert world.state.attempt.paired[0].verdict == "pass"
    why = next(c.message for c in world.state.conditions if c.type == "Progressing")
    assert "of the mirrored requests made no pair" in why
    assert 0.25 < world.state.attempt.evidence.pairing.lost < 0.35


def test_a_mirror_that_brings_nothing_is_undecided_and_in_the_end_a_pause():
    world = shadowed()
    world.traffic.lost = 1.0
    world.want("v2")
    world.run_until("paused", limit=700)
    assert world.state.attempt.pause == "inconclusive"
    assert "0 of 1000 pairs" in world.log[-1][1]


def test_pairs_that_cannot_be_read_are_missing_evidence():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(3)
    read = world.traffic._pairs
    world.traffic._pairs = lambda _: None
    world.run(40)
    assert world.state.attempt.pause == "evidence"
    world.traffic._pairs = read
    world.run_until("stable")
    assert world.state.history[0].outcome == "promoted"


def test_a_shadow_is_no_share_of_the_split_and_no_event_of_the_other_metrics():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(4)
    evidence = world.state.attempt.evidence
    assert evidence.pairing.matched > 0
    assert evidence.series == {}
    assert evidence.spans == ()
    assert world.condition("TrafficVerified") == ("True", "Consistent")


def test_a_restarted_canary_begins_anew():
    world = shadowed(max_gap=0.9)
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(4)
    before = world.state.attempt.evidence.pairing
    world.servers.restart("v2")
    world.run(1)
    after = world.state.attempt.evidence
    assert (after.pairing.matched, after.pairing.due) == (before.matched, before.due)
    assert after.gap_seconds > 0
    world.run(1)
    assert world.state.attempt.evidence.pairing.matched > before.matched


def test_a_person_may_promote_from_the_shadow():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(2)
    world.command("promote", "v2")
    world.run(2)
    assert (world.state.mirror, world.weight("v2")) == (0, 10000)


def test_a_lost_shadow_is_taken_off_the_mirror():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(2)
    world.servers.broken.add("v2")
    world.run(1)
    assert world.phase == "preparing"
    assert world.gateway.route.mirror is None


def test_looks_may_be_cut_anywhere():
    first = add_pairs(Pairing(), Pairs(cursor={"s": ("a", 0)}), 0.2)
    once = add_pairs(first, Pairs(100, 20, 1, {"m": (20, 3)}, {"s": ("a", 100)}), 0.2)
    half = add_pairs(first, Pairs(50, 11, 0, {"m": (11, 3)}, {"s": ("a", 50)}), 0.2)
    twice = add_pairs(half, Pairs(50, 9, 1, {"m": (9, 0)}, {"s": ("a", 100)}), 0.2)
    assert once == twice
    assert once.lost == pytest.approx(0.0)


def test_what_comes_before_the_first_look_does_not_count():
    pairs = Pairs(100, 20, 1, {"m": (20, 3)}, {"s": ("a", 100)})
    assert add_pairs(Pairing(), pairs, 0.2) == Pairing(cursor={"s": ("a", 100)})


def test_the_same_look_twice_is_one():
    world = shadowed()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(3)
    world.now += timedelta(seconds=1)
    world.traffic.send(200)
    world.settle()
    before = world.state
    world.settle()
    assert world.state == before
