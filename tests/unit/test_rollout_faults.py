"""kill -9 at every point of the controller, two controllers at once, and random histories."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.mortal import Fate, Killed, Mortal
from tests.unit.rollout_world import NAME, START, World, plan

import tidemill.controller.loop as loop
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.evidence import TOTAL
from tidemill.domain.paired import PairedRate
from tidemill.domain.rollout.model import Now, Snapshot, Step, intent
from tidemill.domain.rollout.readings import Cohort, Reading
from tidemill.domain.rollout.reconcile import Result, reconcile
from tidemill.errors import Conflict

SHORT = plan(
    steps=(replace(plan().steps[0], min_events=200), replace(plan().steps[2], min_seconds=1)),
    metrics=plan().metrics[:1],
    settle_seconds=0,
    scale_down_seconds=1,
)


SHADOWED = replace(
    SHORT,
    steps=(Step("shadow", 0, ("disagreement",), 50, 0, 3600, False, mirror=5000), *SHORT.steps),
    paired=(PairedRate("disagreement", "flip", 0.1, 0.1, 0.002),),
)


def script(world: World, second: int) -> None:
    if second == 2:
        world.want("v2")
    if second == 20:
        world.rates(v3=0.8)
        world.want("v3")


def mortal(world: World, fate: Fate) -> Controller:
    ports = (world.servers, world.gateway, world.traffic, world.releases)
    hands = Hands(*(Mortal(port, fate) for port in ports))
    store = Mortal(world.store, fate)
    clock = world.controller._clock
    return Controller(NAME, store, store, hands, clock, lambda: world.now)


def outcome(world: World) -> tuple[object, ...]:
    return (
        world.store.log,
        world.state,
        world.gateway.route,
        set(world.servers.running),
        world.releases.told,
        world.traffic.failed,
    )


@pytest.mark.parametrize("the_plan", [SHORT, SHADOWED], ids=["split", "shadow"])
def test_killed_at_every_point_it_takes_the_same_decisions(the_plan):
    world = World(the_plan)
    world.traffic.differs = {"v2": {"disagreement": 0.0}, "v3": {"disagreement": 0.5}}
    world.want("v1")
    points, steps = 0, Counter()
    for second in range(34):
        script(world, second)
        world.now += timedelta(seconds=1)
        world.traffic.send(200)
        before = copy.deepcopy(world)
        world.restart()
        world.settle()
        steps[world.phase] += 1
        for dies_at in range(1, 1000):
            other = copy.deepcopy(before)
            other.restart()
            victim = mortal(other, Fate(dies_at))
            try:
                for _ in range(20):
                    if victim.tick() != 0.0:
                        break
            except Killed:
                points += 1
                other.restart()
                other.settle()
                assert outcome(other) == outcome(world), f"second {second}, point {dies_at}"
            else:
                break
    ends = [(o.outcome, o.revision) for o in world.state.history]
    assert ends == [("rolled_back", "v3"), ("promoted", "v2")]
    assert points > 300, points


def test_two_controllers_take_the_decisions_of_one():
    alone, shared = World(SHORT), World(SHORT)
    for world in (alone, shared):
        world.want("v1")
    second_controller = mortal(shared, Fate(-1))
    for second in range(34):
        for world in (alone, shared):
            script(world, second)
            world.now += timedelta(seconds=1)
            world.traffic.send(200)
        alone.settle()
        for _ in range(20):
            waits = {second_controller.tick(), shared.controller.tick()}
            if 0.0 not in waits:
                break
    assert shared.store.log == alone.store.log
    assert shared.traffic.failed == alone.traffic.failed == 0


def test_a_lost_race_changes_nothing():
    world = World(SHORT)
    world.deploy()
    world.want("v2")
    commit = world.store.commit

    def beaten(*arguments):
        world.store.commit = commit
        world.controller.tick()
        return commit(*arguments)

    world.store.commit = beaten
    with pytest.raises(Conflict):
        world.controller.tick()
    world.settle()
    assert [d.seq for d in world.store.log] == list(range(1, len(world.store.log) + 1))
    assert world.actions.count("begin") == 1


class History(RuleBasedStateMachine):
    """Anything may happen in any order; what must hold always is checked after each step."""

    @initialize(seed=st.integers(0, 1000), queue=st.booleans(), freeze=st.booleans())
    def begin(self, seed: int, queue: bool, freeze: bool) -> None:
        self.world = World(
            plan(
                on_new_revision="queue" if queue else "supersede",
                on_harm="freeze" if freeze else "rollback",
                progress_deadline_seconds=10,
                missing_after_seconds=5,
            ),
            seed=seed,
        )
        self.seen: list[tuple[Snapshot, Now, Result]] = []
        self.routes = [intent(self.world.state).route]
        self.trials: dict[int, int] = {}
        self.hour = 0
        self.original = loop.reconcile
        loop.reconcile = self.spy
        self.world.deploy()

    def spy(self, snapshot: Snapshot, now: Now) -> Result:
        result = reconcile(snapshot, now)
        self.seen.append((snapshot, now, result))
        self.routes.append(intent(result.state).route)
        return result

    def teardown(self) -> None:
        if hasattr(self, "original"):
            loop.reconcile = self.original
            for snapshot, now, result in self.seen:
                assert reconcile(snapshot, now) == result, "I10: a function of its arguments"
                if result.decision is None:
                    again = replace(snapshot, state=result.state, delivered=0)
                    assert reconcile(again, now).state == result.state, "looking twice is once"

    @rule(seconds=st.integers(1, 6), requests=st.sampled_from([0, 50, 400]))
    def time_passes(self, seconds: int, requests: int) -> None:
        self.world.run(seconds, requests)

    @rule(name=st.sampled_from(["v1", "v2", "v3", "v4"]))
    def want(self, name: str) -> None:
        self.world.rates(v4=0.02)
        self.world.want(name)
        self.world.settle()

    @rule(name=st.sampled_from(["v1", "v2", "v3"]), rate=st.sampled_from([0.0, 0.02, 0.9]))
    def errors(self, name: str, rate: float) -> None:
        self.world.rates(**{name: rate})

    @rule(
        action=st.sampled_from(["approve", "resume", "promote", "abort", "retry"]),
        name=st.sampled_from(["v1", "v2", "v3", "canary"]),
    )
    def command(self, action, name: str) -> None:
        attempt = self.world.state.attempt
        if name == "canary":
            name = attempt.canary.revision if attempt else "v9"
        self.world.command(action, name)
        self.world.settle()

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.change(paused=paused)
        self.world.settle()

    @rule(name=st.sampled_from(["v1", "v2", "v3", "v4"]))
    def break_server(self, name: str) -> None:
        self.world.servers.broken.add(name)
        self.world.settle()

    @rule()
    def repair_servers(self) -> None:
        self.world.servers.broken.clear()
        self.world.settle()

    @rule(name=st.sampled_from(["v1", "v2", "v3", "v4"]))
    def restart_server(self, name: str) -> None:
        if name in self.world.servers.running:
            self.world.servers.restart(name)

    @rule(servers=st.booleans(), gateway=st.booleans(), stuck=st.booleans(), registry=st.booleans())
    def outage(self, servers: bool, gateway: bool, stuck: bool, registry: bool) -> None:
        self.world.servers.silent = servers
        self.world.gateway.silent = gateway
        self.world.gateway.stuck = stuck
        self.world.releases.silent = registry
        self.world.settle()

    @rule(names=st.sets(st.sampled_from(["v1", "v2", "v3", "v4"])))
    def unreadable(self, names: set[str]) -> None:
        self.world.traffic.unreadable = names

    @rule()
    def all_is_well_again(self) -> None:
        self.outage(False, False, False, False)
        self.world.traffic.unreadable = set()
        self.world.servers.broken.clear()
        self.world.run(3)

    @rule(dies_at=st.integers(1, 25))
    def controller_is_killed(self, dies_at: int) -> None:
        with contextlib.suppress(Killed):
            mortal(self.world, Fate(dies_at)).tick()
        self.world.restart()
        self.world.settle()

    @precondition(lambda self: self.world.state.attempt is not None)
    @rule(missed=st.integers(0, 60))
    def labels_mature(self, missed: int) -> None:
        state = self.world.state
        self.hour += 1
        cohort = Cohort(state.epoch, 5000, (500, 500), (480, 480), ((20, 40, missed),))
        self.world.traffic.outcomes = Reading(
            cohorts=(cohort,), matured_until=START + timedelta(hours=self.hour)
        )
        self.world.settle()

    def known_route(self) -> bool:
        gateway, servers = self.world.gateway, self.world.servers
        return not (gateway.stuck or gateway.silent or servers.silent)

    @invariant()
    def weights_sum_to_the_whole(self) -> None:
        assert self.world.total() in (0, TOTAL), "I1"

    @invariant()
    def no_traffic_to_servers_known_to_be_lost(self) -> None:
        state, servers = self.world.state, self.world.servers
        if not self.known_route() or state.attempt is None or state.stable is None:
            return
        canary, stable = state.attempt.canary.revision, state.stable.revision
        if canary in servers.broken and canary != stable and stable not in servers.broken:
            assert self.world.weight(canary) == 0, "I2"

    @invariant()
    def rolling_back_never_raises_the_weight(self) -> None:
        state = self.world.state
        if state.phase == "rolling_back":
            assert state.weight == 0, "I3"
            if not self.world.gateway.stuck:
                assert self.world.weight(state.attempt.canary.revision) == 0, "I3"

    @invariant()
    def stable_keeps_its_servers(self) -> None:
        state = self.world.state
        kept = {r.revision for r in (state.stable, state.previous) if r}
        if not self.world.servers.silent:
            assert kept <= set(self.world.servers.running), "I4"

    @invariant()
    def evidence_is_counted_at_most_once(self) -> None:
        attempt = self.world.state.attempt
        if attempt is None:
            return
        counted = sum(s.requests[1] for s in attempt.evidence.series.get("requests", ()))
        answered = sum(
            count
            for (revision, _, what), count in self.world.traffic._counted.items()
            if revision == attempt.canary.revision and what == "requests"
        )
        assert counted <= answered, "I5"
        trials = sum(sum(s.trials) for series in attempt.evidence.series.values() for s in series)
        assert trials >= self.trials.get(attempt.number, 0), "I6: never reset inside an attempt"
        self.trials[attempt.number] = trials

    @invariant()
    def one_attempt_at_a_time_and_none_after_its_end(self) -> None:
        running = 0
        for decision in self.world.store.log:
            if decision.action == "begin":
                assert running == 0, "I7"
                running = decision.attempt
            elif decision.action == "complete":
                assert running == decision.attempt
                running = 0
            elif decision.action in ("weight", "promote", "finalize", "rollback", "hold"):
                assert decision.attempt == running, "I9"

    @invariant()
    def nothing_is_actuated_that_was_not_persisted(self) -> None:
        assert self.world.gateway.wanted in self.routes, "I8"
        numbers = [d.seq for d in self.world.store.log]
        assert numbers == list(range(1, len(numbers) + 1)), "I8"
        assert self.world.state.seq == len(numbers)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
TestHistory.pytestmark = [pytest.mark.slow]
