"""Specification and state on a real API server: compare-and-swap, conditions, refused edits."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.cluster.rollouts import SPEC, change, manifest
from tests.unit.rollout_world import START, World

from tidemill.adapters.kubernetes.analysis import MAX_METRICS
from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS, KubeClient
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.status import MAX_DECISIONS
from tidemill.controller.loop import MAX_SAID
from tidemill.controller.orders import Orders
from tidemill.domain.evidence import LEVELS, MAX_SEGMENTS, Segment
from tidemill.domain.rollout.model import Condition, Decision, Outcome, State
from tidemill.domain.rollout.moves import HISTORY
from tidemill.domain.rollout.readings import Counters
from tidemill.errors import Conflict, DataError, NotFound, Refused

NAME = "flight-delay"


@pytest.fixture
def rollouts(api, namespace) -> ResourceRollouts:
    api.create(ROLLOUTS, manifest(namespace))
    return ResourceRollouts(api, namespace, lambda: START)


def decision(seq: int) -> Decision:
    return Decision(seq, START, START, 1, "weight", "gate passed", "stable", "v1", 500, seq)


def full_state() -> State:
    """A state with an attempt, evidence and everything else a checkpoint must survive."""
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing", step="c25")
    world.run(3)
    return world.state


def largest_state() -> State:
    """A thousand servers in each arm, twelve metrics of labels, each with all its segments."""
    state = full_state()
    events = ("error", "slow", "invalid", "low", "high", "overloaded")
    counted = dict.fromkeys(events, 10**9)
    part = Counters(1_790_000_000.123456, 10**9, counted)
    servers = {f"{number:08d}-aaaa-bbbb-cccc-123456789012": part for number in range(1000)}
    levels = tuple((level, 10**6, 10**6) for level in range(1, LEVELS + 1))
    series = tuple(
        Segment(number, number, 5000, (10**9, 10**9), (10**9, 10**9), levels)
        for number in range(MAX_SEGMENTS)
    )
    evidence = replace(
        state.attempt.evidence,
        baseline={arm: replace(part, servers=servers) for arm in ("a" * 10, "b" * 10)},
        series={f"metric-{number}": series for number in range(MAX_METRICS)},
        problem="x" * MAX_SAID,
    )
    ends = (Outcome(9, "a" * 10, "rolled_back", "x" * MAX_SAID, START),) * HISTORY
    return replace(state, attempt=replace(state.attempt, evidence=evidence), history=ends)


def test_the_largest_state_is_written_and_read(rollouts, api, namespace):
    wanted = largest_state()
    for number in range(1, MAX_DECISIONS + 1):
        _, version = rollouts.state(NAME)
        long = replace(decision(number), reason="x" * (MAX_SAID + 100))
        rollouts.commit(NAME, wanted, long, version)
    assert rollouts.state(NAME)[0] == wanted
    written = len(json.dumps(api.get(ROLLOUTS, namespace, NAME)))
    assert 600_000 < written < 1_200_000, f"{written} bytes; etcd takes 1.5 MB"


def test_a_specification_is_what_was_written(rollouts):
    spec = rollouts.spec(NAME)
    assert (spec.generation, spec.paused, spec.command) == (1, False, None)
    assert (spec.desired.version, spec.desired.reported) == ("1", "a" * 10)
    assert [step.weight for step in spec.plan.steps] == [500, 5000]
    assert [metric.alpha for metric in spec.plan.metrics] == [0.006, 0.002]
    assert spec.plan.policy.on_new_revision == "supersede"
    assert rollouts.spec("other") is None


def test_what_serves_is_part_of_the_revision_its_number_is_not(rollouts, api, namespace):
    before = rollouts.spec(NAME).desired
    found = api.get(ROLLOUTS, namespace, NAME)
    change(found["spec"], "runtime.replicas", 5)
    api.replace(ROLLOUTS, found)
    assert rollouts.spec(NAME).desired == before
    found = api.get(ROLLOUTS, namespace, NAME)
    change(found["spec"], "runtime.image", "r.test/serve@sha256:" + "2" * 64)
    api.replace(ROLLOUTS, found)
    after = rollouts.spec(NAME).desired
    assert after.revision != before.revision
    assert after.reported == before.reported


def test_a_state_comes_back_to_the_last_bit(rollouts):
    state = replace(full_state(), since=START + timedelta(microseconds=1))
    empty, version = rollouts.state(NAME)
    assert empty == State()
    written = rollouts.commit(NAME, state, decision(1), version)
    assert rollouts.state(NAME) == (state, written)
    assert rollouts.decisions(NAME) == [decision(1)]


def test_a_write_over_somebody_elses_fails(rollouts):
    _, version = rollouts.state(NAME)
    rollouts.commit(NAME, State(phase="stable"), None, version)
    with pytest.raises(Conflict):
        rollouts.commit(NAME, State(phase="paused"), None, version)
    assert rollouts.state(NAME)[0].phase == "stable"


def test_a_write_from_a_stale_memory_fails_on_the_server(api, namespace, rollouts):
    class Stale:
        """Answers with an old object; writes go through."""

        def __init__(self) -> None:
            self.old = api.get(ROLLOUTS, namespace, NAME)

        def get(self, *_: object) -> object:
            return copy.deepcopy(self.old)

        def __getattr__(self, name: str) -> object:
            return getattr(api, name)

    stale = ResourceRollouts(Stale(), namespace, lambda: START)
    _, version = stale.state(NAME)
    rollouts.commit(NAME, State(phase="stable"), None, version)
    with pytest.raises(Conflict):
        stale.commit(NAME, State(phase="paused"), None, version)


def test_the_log_is_bounded_and_the_newest_stay(rollouts):
    for seq in range(1, 26):
        rollouts.commit(NAME, State(seq=seq), decision(seq), rollouts.state(NAME)[1])
    assert [d.seq for d in rollouts.decisions(NAME)] == list(range(6, 26))


def test_conditions_keep_their_time_until_they_change(api, namespace, rollouts):
    moments = [START, START + timedelta(hours=1), START + timedelta(hours=2)]
    for moment, status in zip(moments, ("False", "False", "True"), strict=True):
        later = ResourceRollouts(api, namespace, lambda moment=moment: moment)
        state = State(conditions=(Condition("Promoted", status, "InFlight"),))
        later.commit(NAME, state, None, later.state(NAME)[1])
        found = api.get(ROLLOUTS, namespace, NAME)["status"]["conditions"]
        promoted = next(c for c in found if c["type"] == "Promoted")
        changed = START if status == "False" else moments[2]
        assert promoted["lastTransitionTime"] == changed.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_kubectl_waits_for_a_condition(cluster, namespace, rollouts):
    state = State(phase="stable", conditions=(Condition("Promoted", "True", "Promoted"),))
    rollouts.commit(NAME, state, None, rollouts.state(NAME)[1])
    wait = ("--for=condition=Promoted", f"mro/{NAME}", "-n", namespace, "--timeout=1s")
    said = cluster.kubectl("wait", *wait, check=False)
    assert "timed out" in said, "it was found under a specification that nobody knows"
    rollouts.spec(NAME)
    rollouts.commit(NAME, state, None, rollouts.state(NAME)[1])
    assert "condition met" in cluster.kubectl("wait", *wait)
    assert "SpecValid" in cluster.kubectl("describe", "mro", NAME, "-n", namespace)


def test_a_generation_is_observed_once_and_conditions_only_when_judged(api, namespace, rollouts):
    promoted = State(phase="stable", conditions=(Condition("Promoted", "True", "Promoted"),))
    rollouts.spec(NAME)
    rollouts.commit(NAME, promoted, None, rollouts.state(NAME)[1])
    version = rollouts.state(NAME)[1]
    rollouts.acknowledge(NAME)
    assert rollouts.state(NAME)[1] == version, "nothing new to say"
    found = api.get(ROLLOUTS, namespace, NAME)
    change(found["spec"], "runtime.replicas", 3)
    api.replace(ROLLOUTS, found)
    assert generations(api, namespace) == (1, 1)
    rollouts.acknowledge(NAME)
    assert generations(api, namespace) == (1, 1), "nobody has judged it yet"
    rollouts.spec(NAME)
    rollouts.acknowledge(NAME)
    assert generations(api, namespace) == (2, 2)


def generations(api: KubeClient, namespace: str) -> tuple[int, int]:
    """Return what the status and what its condition Promoted was observed under."""
    status = api.get(ROLLOUTS, namespace, NAME)["status"]
    promoted = next(c for c in status["conditions"] if c["type"] == "Promoted")
    return status["observedGeneration"], promoted["observedGeneration"]


def test_orders_are_those_of_one_machine(rollouts):
    orders = Orders(NAME, rollouts, rollouts)
    spec = rollouts.spec(NAME)
    assert orders.pause().paused
    desired = replace(spec.desired, version="2", digest="sha256:" + "b" * 64)
    assert orders.start(desired).desired.version == "2"
    wanted = rollouts.spec(NAME)
    assert (wanted.desired.version, wanted.paused) == ("2", True)
    assert wanted.desired.threshold == 0.25
    rollouts.commit(NAME, State(closed=wanted.desired.revision), None, rollouts.state(NAME)[1])
    orders.command("retry")
    command = rollouts.spec(NAME).command
    assert (command.action, command.revision) == ("retry", wanted.desired.revision)
    assert rollouts.spec(NAME).generation == 4


def test_an_order_that_was_overtaken_is_a_conflict(rollouts):
    spec = rollouts.spec(NAME)
    rollouts.propose(NAME, replace(spec, generation=2, paused=True))
    with pytest.raises(Conflict):
        rollouts.propose(NAME, replace(spec, generation=2))


def test_the_plan_is_edited_in_the_resource_alone(rollouts):
    spec = rollouts.spec(NAME)
    other = replace(spec.plan, settle_seconds=99.0)
    with pytest.raises(Refused, match="resource's own"):
        rollouts.propose(NAME, replace(spec, generation=2, plan=other))
    with pytest.raises(NotFound):
        rollouts.propose("other", spec)


def test_a_policy_is_read_and_what_it_lacks_is_said(api, namespace):
    analysis = {"policyRef": {"name": "default"}}
    api.create(ROLLOUTS, manifest(namespace, analysis=analysis))
    rollouts = ResourceRollouts(api, namespace, lambda: START)
    assert rollouts.spec(NAME) is None
    rollouts.acknowledge(NAME)
    assert said(api, namespace) == ("False", "InvalidPlan")
    head = {"apiVersion": "serving.tidemill.dev/v1alpha1", "kind": "AnalysisPolicy"}
    metadata = {"name": "default", "namespace": namespace}
    policy = copy.deepcopy(SPEC["analysis"]["inline"])
    api.create(POLICIES, head | {"metadata": metadata, "spec": policy})
    assert rollouts.spec(NAME).plan.metrics[0].name == "errors"
    rollouts.acknowledge(NAME)
    assert said(api, namespace) == ("True", "Valid")
    found = api.get(POLICIES, namespace, "default")
    change(found, "spec.metrics.0.name", "failures")
    api.replace(POLICIES, found)
    assert rollouts.spec(NAME) is None, "the gate names errors"


class Newer:
    """An API server whose definitions are of a later release, with one field more."""

    def __init__(self, api: KubeClient) -> None:
        self._api = api

    def get(self, *arguments: str) -> dict[str, object]:
        found = self._api.get(*arguments)
        change(found, "spec.strategy.warmUpSeconds", 30)
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._api, name)


def test_a_field_that_this_release_does_not_know_is_said(api, namespace, rollouts):
    newer = ResourceRollouts(Newer(api), namespace, lambda: START)
    assert newer.spec(NAME) is None
    newer.acknowledge(NAME)
    assert said(api, namespace) == ("False", "UnsupportedField")
    assert "warmUpSeconds" in newer.problem(NAME)
    rollouts.spec(NAME)
    rollouts.acknowledge(NAME)
    assert said(api, namespace) == ("True", "Valid")


def test_an_attempt_goes_on_under_a_specification_that_broke(api, namespace):
    api.create(ROLLOUTS, manifest(namespace, analysis={"policyRef": {"name": "gone"}}))
    rollouts = ResourceRollouts(api, namespace, lambda: START)
    state = full_state()
    rollouts.commit(NAME, state, None, rollouts.state(NAME)[1])
    spec = rollouts.spec(NAME)
    assert spec.desired == state.attempt.canary
    assert spec.plan == state.attempt.plan
    rollouts.acknowledge(NAME)
    assert said(api, namespace) == ("False", "InvalidPlan")


def test_a_checkpoint_that_was_edited_is_not_guessed_at(api, namespace, rollouts):
    found = api.get(ROLLOUTS, namespace, NAME)
    api.replace(ROLLOUTS, found | {"status": {"checkpoint": '{"phase": 3}'}}, "status")
    with pytest.raises(DataError, match="not what a controller wrote"):
        rollouts.state(NAME)


def said(api: KubeClient, namespace: str) -> tuple[str, str]:
    conditions = api.get(ROLLOUTS, namespace, NAME)["status"]["conditions"]
    found = next(c for c in conditions if c["type"] == "SpecValid")
    return found["status"], found["reason"]


def test_a_full_state_is_a_few_kilobytes(rollouts, api, namespace):
    rollouts.commit(NAME, full_state(), decision(1), rollouts.state(NAME)[1])
    size = len(json.dumps(api.get(ROLLOUTS, namespace, NAME)))
    assert size < 30_000
