from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.diagnosis import FAULTS
from tidemill.domain.governor import (
    HELD,
    TRIGGERS,
    Limits,
    Request,
    Situation,
    Trigger,
    decide,
    request_id,
)
from tidemill.domain.verdicts import Cause

NOW = datetime(2013, 5, 1, tzinfo=UTC)
LIMITS = Limits(timedelta(28), timedelta(14), 4, timedelta(30), 5000, 2)
FREE = Situation(NOW, last_training=NOW - timedelta(40), new_labels=20_000)
FLIGHT = ("in rollout m version 7 is paused at step c50 (inconclusive)",)
ALL: list[Trigger] = ["schedule", "manual", "ci", *get_args(Cause)]


def request(trigger: Trigger, **changes: object) -> Request:
    wish = Request("req-1", "m", "rev", trigger, "me", "why not", NOW.isoformat(), "inc-1")
    return replace(wish, **changes)


instants = st.integers(0, 90).map(lambda days: NOW - timedelta(days))
situations = st.builds(
    Situation,
    now=st.just(NOW),
    last_training=st.none() | instants,
    new_labels=st.integers(0, 10_000),
    accepted=st.lists(instants, max_size=8).map(tuple),
    active=st.sampled_from(["", "req-2"]),
    rollouts=st.sampled_from([(), ("in rollout m version 7 is paused",)]),
    replaced=st.sampled_from(["", "rev-2"]),
    faults=st.sampled_from([(), ("skew (inc-2)",)]),
    resolved=st.booleans(),
    excluded=st.booleans(),
)
requests = st.builds(request, st.sampled_from(ALL), attempts=st.integers(0, 3))


@given(requests, situations)
def test_what_runs_broke_no_rule(wish: Request, now: Situation) -> None:
    decision = decide(wish, now, LIMITS)
    assert decision.reason
    if decision.verb != "RUN":
        return
    assert wish.trigger in TRIGGERS
    assert not now.active
    assert wish.trigger == "manual" or not now.rollouts
    assert not now.faults
    assert wish.attempts < LIMITS.attempts
    recent = [at for at in now.accepted if at > NOW - LIMITS.budget_period]
    assert wish.trigger == "manual" or len(recent) < LIMITS.budget
    if wish.trigger in ("schedule", "concept_drift"):
        assert now.new_labels >= LIMITS.min_new_labels
    if wish.trigger == "concept_drift":
        assert now.excluded
        assert not now.resolved
        assert not now.replaced
        assert now.last_training is None or NOW - now.last_training >= LIMITS.cooldown
    if wish.trigger == "schedule" and now.last_training:
        assert NOW - now.last_training >= LIMITS.schedule


@given(requests, situations)
def test_a_wait_for_time_ends_when_it_says(wish: Request, now: Situation) -> None:
    decision = decide(wish, now, LIMITS)
    if decision.until is not None:
        assert decision.verb == "WAIT"
        later = decide(wish, replace(now, now=decision.until), LIMITS)
        assert later.rule != decision.rule


@given(situations, st.sampled_from([*FAULTS, "covariate_shift", "none"]))
def test_no_situation_lets_a_fault_or_moving_features_retrain(now: Situation, cause: Cause) -> None:
    assert decide(request(cause), now, LIMITS).verb == "REFUSE"


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_free_road_runs(trigger: Trigger) -> None:
    assert decide(request(trigger), FREE, LIMITS).verb == "RUN"


@pytest.mark.parametrize(
    ("trigger", "changes", "answer"),
    [
        ("concept_drift", {"last_training": NOW - timedelta(3)}, ("WAIT", "cooldown")),
        ("schedule", {"last_training": NOW - timedelta(20)}, ("WAIT", "schedule")),
        ("schedule", {"new_labels": 4999}, ("WAIT", "labels")),
        ("concept_drift", {"excluded": False}, ("WAIT", "excluded")),
        ("concept_drift", {"resolved": True}, ("REFUSE", "resolved")),
        ("manual", {"active": "req-2"}, ("WAIT", "lock")),
        ("schedule", {"rollouts": FLIGHT}, ("WAIT", "rollout")),
        ("concept_drift", {"rollouts": FLIGHT}, ("WAIT", "rollout")),
        ("concept_drift", {"rollouts": FLIGHT, "resolved": True}, ("REFUSE", "resolved")),
        ("ci", {"rollouts": FLIGHT}, ("WAIT", "rollout")),
        ("concept_drift", {"replaced": "rev-2"}, ("WAIT", "replaced")),
        ("concept_drift", {"replaced": "rev-2", "rollouts": FLIGHT}, ("WAIT", "rollout")),
        ("schedule", {"replaced": "rev-2"}, ("RUN", "all")),
        ("ci", {"rollouts": FLIGHT, "active": "req-2"}, ("WAIT", "lock")),
        ("ci", {"rollouts": FLIGHT, "accepted": (NOW,) * 4}, ("WAIT", "rollout")),
        ("manual", {"rollouts": FLIGHT}, ("RUN", "all")),
        ("manual", {"faults": ("skew (inc-2)",)}, ("WAIT", "fault")),
        ("ci", {"accepted": (NOW,) * 4}, ("ESCALATE", "budget")),
        ("schedule", {"accepted": (NOW,) * 4}, ("ESCALATE", "budget")),
        ("manual", {"accepted": (NOW,) * 4, "new_labels": 0}, ("RUN", "all")),
        ("schedule", {"accepted": (NOW - timedelta(31),) * 9}, ("RUN", "all")),
    ],
)
def test_rules_one_by_one(
    trigger: Trigger, changes: dict[str, object], answer: tuple[str, str]
) -> None:
    decision = decide(request(trigger), replace(FREE, **changes), LIMITS)
    assert (decision.verb, decision.rule) == answer


def test_a_wait_for_a_rollout_says_which_and_where_to_look() -> None:
    two = (*FLIGHT, "in rollout n version 8 is preparing at step c5")
    for trigger in HELD:
        reason = decide(request(trigger), replace(FREE, rollouts=two), LIMITS).reason
        assert reason == f"{two[0]}; {two[1]}: tidemill rollout status"


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_a_run_made_itself_does_not_end_it(trigger: Trigger) -> None:
    """Its model was promoted, the drift is over, and it is the last training."""
    own = {"replaced": "rev-2", "resolved": True, "last_training": NOW, "new_labels": 0}
    begun = request(trigger, run_id="run-1")
    for changes in (own, own | {"rollouts": FLIGHT}):
        assert decide(begun, replace(FREE, **changes), LIMITS).verb == "RUN"
    for rule in ({"active": "req-2"}, {"faults": ("skew (inc-2)",)}):
        assert decide(begun, replace(FREE, **rule), LIMITS).verb == "WAIT"


def test_runs_that_keep_failing_end_with_a_person() -> None:
    wish = request("schedule", attempts=2, outcome="out of memory")
    decision = decide(wish, FREE, LIMITS)
    assert (decision.verb, decision.rule) == ("ESCALATE", "attempts")
    assert "out of memory" in decision.reason


def test_the_same_wish_is_the_same_request() -> None:
    assert request_id("m", "r", "ci", "abc") == request_id("m", "r", "ci", "abc")
    assert request_id("m", "r", "ci", "abc") != request_id("m", "r", "ci", "abd")
