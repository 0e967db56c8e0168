"""The scenarios that every backend plays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.cluster.rollout_backends import STEPS, ResourceWorld
from tests.unit.rollout_world import IN_FLIGHT, START, TOTAL

from tidemill.domain.rollout.model import Command
from tidemill.domain.rollout.readings import Cohort, Reading

__all__ = ["SCENARIOS", "Scenario"]

Scenario = Callable[[ResourceWorld], None]


def happy(world: ResourceWorld) -> None:
    """S1: two steps, promotion, the old servers gone."""
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    world.run(2)


def harmful(world: ResourceWorld) -> None:
    """S2: harm in the last step."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c50")
    world.rates(v2=0.9)
    world.run_until("rolling_back")
    world.run_until("stable")
    world.run(2)


def harmful_while(phase: str) -> Scenario:
    """S2: harm under the first weight, under all traffic, after the promotion."""

    def scenario(world: ResourceWorld) -> None:
        world.deploy()
        world.bring_to(phase)
        world.rates(v2=0.9)
        world.run_until("rolling_back")
        world.run_until("stable")
        assert world.state.history[0].outcome == "rolled_back"
        assert world.weight(world.revisions["v1"].revision) == TOTAL

    scenario.__name__ = f"harmful_while_{phase}"
    return scenario


def newer_while(phase: str) -> Scenario:
    """S8: V3 is wanted while V2 is in a phase; it takes over, before or after V2."""

    def scenario(world: ResourceWorld) -> None:
        world.deploy()
        world.bring_to(phase)
        world.want("v3")
        for _ in range(60):
            if world.phase == "stable" and world.state.stable == world.revisions["v3"]:
                break
            world.run(1)
        assert world.weight(world.revisions["v3"].revision) == TOTAL
        assert world.traffic.failed == 0

    scenario.__name__ = f"newer_while_{phase}"
    return scenario


def superseded(world: ResourceWorld) -> None:
    """S8: V3 during V2, then the stable one is wanted again."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.run_until("preparing")
    world.run_until("progressing")
    world.want("v1")
    world.run(6)


def queued(world: ResourceWorld) -> None:
    """S8: only the newest of those that wait is tried."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.want("v3")
    world.want("v4")
    world.rates(v4=0.02)
    world.run_until("finalizing")
    world.run_until("progressing")
    world.run(3)


def commanded(world: ResourceWorld) -> None:
    """S9: pause, resume, stale approval and skip, approval, promote, abort, retry, skip."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.change(paused=True)
    world.run(2)
    world.change(paused=False)
    world.run(1)
    for action, about, step in (
        ("approve", "v3", ""),
        ("approve", "v2", "c50"),
        ("skip", "v2", "c50"),
        ("approve", "v2", "c5"),
        ("promote", "v2", ""),
    ):
        world.command(action, about, step)
        world.run(1)
    world.run_until("stable")
    world.command("abort", "v2")
    world.run(1)
    world.want("v3")
    world.run_until("progressing")
    world.command("abort", "v3")
    world.run_until("stable")
    world.command("retry", "v3")
    world.run_until("progressing")
    world.command("skip", "v3")
    world.run(1)
    assert world.step == "c50"


def unseen(world: ResourceWorld) -> None:
    """S6: a canary whose counters cannot be read."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.traffic.unreadable = {world.revisions["v2"].revision}
    world.run(70)
    world.traffic.unreadable = set()
    world.run(5)


def tuple_of(world: ResourceWorld, name: str) -> None:
    """Assert that one version's whole promotion tuple serves, and nothing of another."""
    assert world.state.stable == world.revisions[name]
    assert world.releases.told[-1].champion == world.revisions[name]
    assert world.weight(world.revisions[name].revision) == 10_000


def together(world: ResourceWorld) -> None:
    """S1, S2: digest, threshold and score tails switch as one, and go back as one."""
    world.deploy()
    tuple_of(world, "v1")
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    world.run(2)
    tuple_of(world, "v2")
    world.want("v3")
    world.run_until("finalizing")
    assert world.state.stable == world.revisions["v3"]
    world.rates(v3=0.9)
    world.run_until("rolling_back")
    world.run_until("stable")
    world.run(2)
    tuple_of(world, "v2")


def returned(world: ResourceWorld) -> None:
    """Back to the revision that served last: no steps."""
    world.deploy()
    world.want("v2")
    world.run_until("finalizing")
    world.run_until("stable")
    world.want("v1")
    world.run_until("promoting")
    world.run_until("stable")
    world.run(2)
    assert world.state.stable == world.revisions["v1"]
    assert world.state.served == (world.revisions["v2"].revision,)


def both_sick(world: ResourceWorld) -> None:
    """S7: both are above maxRate: nobody is blamed; when both are well it goes on."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.rates(v1=0.6, v2=0.6)
    world.run_until("paused")
    world.run(20)
    assert world.condition("Stalled") == ("True", "Unhealthy")
    assert "rollback" not in [d.action for d in world.store.log]
    world.command("abort", "v2")
    world.run(4)


def stable_sick(world: ResourceWorld) -> None:
    """S7: stable alone is above maxRate, the canary is the cure: Freeze waits, Proceed goes on."""
    world.deploy()
    world.rates(v1=0.6, v2=0.02)
    world.want("v2")
    cured = world.plan.policy.on_stable_unhealthy == "proceed"
    world.run_until("finalizing" if cured else "paused")
    world.run(10)


def edited(world: ResourceWorld) -> None:
    """S10: steps and policies bind the next attempt, freeze windows the one in flight."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.edit(
        strategy__steps=[STEPS[1] | {"name": "c90", "weight": 9000}], strategy__onHarm="Freeze"
    )
    world.run_until("progressing", step="c50")
    assert world.state.weight == 5000, "the plan that it began with"
    (told,) = (d.reason for d in world.store.log if d.action == "ignore")
    assert told.startswith("the plan was edited (steps, policy): this attempt keeps its own")
    assert world.condition("PlanChanged") == ("True", "NextAttempt")
    world.edit(strategy__freeze=[MORNING])
    world.run(40)
    assert (world.step, world.phase) == ("c50", "progressing")
    world.edit(strategy__freeze=[])
    world.run_until("stable")
    world.rates(v3=0.9)
    world.want("v3")
    world.run_until("progressing", step="c90")
    world.run_until("paused")
    assert world.state.attempt.pause == "harm"


def astray(world: ResourceWorld) -> None:
    """S11: the gateway refuses a route that was in force: for a while, then past the deadline."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.gateway.refused = "Gateway public: not Accepted"
    world.run(20)
    world.gateway.refused = ""
    world.run(2)
    assert world.phase == "progressing"
    world.gateway.refused = "Gateway public: not ResolvedRefs"
    world.run_until("rolling_back")
    assert world.store.log[-1].reason.endswith(
        "no longer in force: Gateway public: not ResolvedRefs"
    )
    world.gateway.refused = ""
    world.run_until("stable")


def cohort(world: ResourceWorld, hours: int, labelled: int, wrong: int) -> None:
    """Let the labels of all requests up to an hour be known."""
    weight = world.state.weight
    canary = 400 * weight // 10_000
    losses = ((20, 20, wrong),)
    found = Cohort(
        world.state.epoch,
        weight,
        (400 - canary, canary),
        (400 - canary, min(canary, labelled)),
        losses,
    )
    until = START + timedelta(hours=hours)
    world.traffic.outcomes = Reading(cohorts=(found,), matured_until=until)


def matured(world: ResourceWorld) -> None:
    """S13: labels mature hour by hour; hours that come again or out of order count once."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c50")
    world.run(3)
    for hour in (1, 2, 2, 1, 3, 4):
        cohort(world, hour, labelled=200, wrong=20)
        world.run(2)
    seen = world.state.attempt.evidence
    assert seen.matured_until == START + timedelta(hours=4)
    assert sum(sum(s.trials) for s in seen.series["wrong"]) == 4 * 400
    world.now += timedelta(hours=30)
    world.run(2)
    world.now -= timedelta(hours=2)
    world.run(2)
    for hour in range(5, 40):
        cohort(world, hour, labelled=200, wrong=60)
        world.run(1)
        if world.phase != "progressing":
            break
    assert "harm in wrong" in world.store.log[-1].reason
    world.run_until("stable")


def jumped(world: ResourceWorld) -> None:
    """S13: the clock is set three days ahead, then back: the step's stay ends by neither."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c50")
    for days in (3, -6, 3):
        world.run(5)
        world.now += timedelta(days=days)
        world.run(1)
        assert world.step == "c50"
    world.run(STAY - 3 * LOOK)
    world.run_until("stable")


def unlabelled(world: ResourceWorld) -> None:
    """S13: the canary's labels are lost more often than stable's: no verdict, no promotion."""
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c50")
    world.run(3)
    for hour in range(1, 30):
        cohort(world, hour, labelled=120, wrong=20)
        world.run(1)
    found = next(a for a in world.state.attempt.assessments if a.metric == "wrong")
    assert found.verdict == "missing"
    assert world.step == "c50"


def frozen(world: ResourceWorld) -> None:
    """A window holds the step; the glass is broken with a reason; promotion follows."""
    world.deploy()
    world.want("v2")
    world.run(30)
    assert world.phase == "preparing", "the first request is an increase, too"
    order = Command("glass", "break_glass", world.revisions["v2"].revision, reason="INC-7, Ada")
    world.change(command=order)
    world.run_until("progressing")
    world.command("promote", "v2")
    world.run_until("stable")
    assert [(r.kind, r.reason) for r in world.releases.told[1:]] == [
        ("unfrozen", "INC-7, Ada"),
        ("promoted", "promoted by a person"),
    ]


def shadowed(world: ResourceWorld) -> None:
    """S14: lost mirrors, one that agrees is promoted, one that does not meets no client."""
    world.traffic.differs = {
        world.revisions[name].revision: {"disagreement": rate}
        for name, rate in {"v2": 0.01, "v3": 0.3}.items()
    }
    world.traffic.lost = 0.2
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="shadow")
    world.run(20)
    assert world.step == "shadow"
    world.traffic.lost = 0.0
    world.run_until("progressing", step="c5", limit=120)
    world.run_until("stable")
    world.want("v3")
    world.run_until("rolling_back")
    world.run_until("stable")
    assert world.state.history[0].reason.startswith("harm in disagreement")


def unfit(world: ResourceWorld) -> None:
    """S16: a canary that answers wrongly or refuses to start meets no client."""
    world.deploy()
    world.traffic.rehearsal = None
    world.want("v2")
    world.run(20)
    assert world.phase == "preparing", "it has not answered yet"
    world.traffic.rehearsal = "its score is 2"
    world.run_until("stable")
    assert world.state.history[0].reason == "the canary failed its rehearsal: its score is 2"
    world.servers.refused[world.revisions["v3"].revision] = "golden row 7 scores 0.3"
    world.want("v3")
    world.run_until("rolling_back")
    world.run_until("stable")
    refused = "the canary's server refuses to start: golden row 7 scores 0.3"
    assert world.state.history[0].reason == refused
    assert all(decision.weight in (0, 10_000) for decision in world.store.log)


STAY, LOOK = 240, 61
"""Seconds of a step's stay, and the most of it that one look may count."""
LONG = {"strategy__steps": [STEPS[0], STEPS[1] | {"minSeconds": STAY, "maxSeconds": 10**6}]}
KEPT = {"strategy__scaleDownDelaySeconds": 5}
"""The old servers stay long enough for something to happen meanwhile."""
SOON = {
    "strategy__steps": [STEPS[0] | {"minEvents": 10**6}],
    "strategy__progressDeadlineSeconds": 60,
}
QUEUE = {"strategy__onNewRevision": "QueueLatest"}
APPROVED = {"strategy__steps": [STEPS[0] | {"approval": True}, STEPS[1]]}
MORNING = {"days": ["Mon"], "start": "00:00", "end": "01:00"}
"""START is a Monday's midnight."""
LABELS = {
    "analysis__inline__maturationSeconds": 3600,
    "analysis__inline__metrics": [
        {"name": "errors", "event": "error", "passRatio": "2", "alphaShare": 60},
        {"name": "wrong", "event": "wrong", "harmRatio": "1.1", "alphaShare": 40},
    ],
    "strategy__steps": [STEPS[0], STEPS[1] | {"gate": ["wrong"], "maxSeconds": 10**6}],
}
SHADOW = {
    "strategy__steps": [
        {"name": "shadow", "shadow": {"percent": 20}, "gate": ["disagreement"]},
        *STEPS,
    ],
    "analysis__inline__paired": [{"name": "disagreement", "event": "flip", "maxRate": "0.05"}],
}
SCENARIOS: list[tuple[Scenario, dict[str, Any]]] = [
    (happy, {}),
    (harmful, {}),
    *((harmful_while(phase), KEPT) for phase in ("progressing", "promoting", "finalizing")),
    (superseded, {}),
    (queued, QUEUE),
    *((newer_while(phase), KEPT) for phase in IN_FLIGHT),
    *((newer_while(phase), KEPT | QUEUE) for phase in IN_FLIGHT),
    (commanded, APPROVED),
    (unseen, {}),
    (together, {}),
    (returned, {"strategy__rollbackWindow": {"revisions": 1}}),
    (both_sick, {}),
    (stable_sick, {"strategy__onStableUnhealthy": "Freeze"}),
    (stable_sick, {"strategy__onStableUnhealthy": "Proceed"}),
    (edited, {}),
    (astray, SOON),
    (matured, LABELS),
    (jumped, LONG),
    (unlabelled, LABELS),
    (frozen, {"strategy__freeze": [MORNING]}),
    (shadowed, SHADOW),
    (unfit, {}),
]
