"""The governor beside rollouts: it waits for their end, and decides again behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from tests.retrain_world import Desk, at_rest, flight, wish

from tidemill.domain.governor import HELD, Request, Trigger
from tidemill.domain.incidents import Incident
from tidemill.domain.rollout.flight import Rollout
from tidemill.errors import Unavailable


@pytest.mark.parametrize("trigger", HELD)
def test_a_rollout_is_waited_for_and_then_it_runs(desk: Desk, trigger: Trigger) -> None:
    desk.rollouts = lambda: [flight("progressing")]
    asked = wish(desk, trigger)
    assert asked.state == "waiting"
    assert [r.state for r in desk.governor.advance()] == ["waiting"]
    desk.rollouts = lambda: [flight("paused", "inconclusive")]
    desk.governor.advance()
    told = desk.requests.decisions(asked.id)
    assert {(d.verb, d.rule) for d in told} == {("WAIT", "rollout")}
    assert [d.reason for d in told] == [
        "in rollout m version 7 is progressing at step c5: tidemill rollout status",
        "in rollout m version 7 is paused at step c5 (inconclusive): tidemill rollout status",
    ], "the same phase again is no news, another one is"
    desk.rollouts = tuple
    (decided,) = desk.governor.advance()
    assert decided.state == "pending"
    launcher, _ = desk.launcher()
    assert launcher.launch(decided).attempts == 1, "waiting has cost none"


def test_after_a_rollout_the_attempts_that_are_left_are_had(desk: Desk) -> None:
    launcher, runs = desk.launcher("failed", "failed")
    asked = launcher.launch(wish(desk, "ci"))
    desk.rollouts = lambda: [flight("rolling_back")]
    assert [r.state for r in desk.governor.advance()] == ["waiting"]
    desk.rollouts = tuple
    (again,) = desk.governor.advance()
    assert (again.id, again.state) == (asked.id, "pending")
    launcher.launch(again)
    desk.rollouts = lambda: [flight("preparing")]
    assert [r.state for r in desk.governor.advance()] == ["escalated"], "no use in waiting"
    assert len(runs.launched) == 2


def test_a_promotion_that_helped_ends_a_drift_request_that_waited(desk: Desk) -> None:
    desk.rollouts = lambda: [flight("progressing")]
    incident = desk.incident("concept_drift")
    asked = desk.governor.consider(incident)
    desk.incidents.save(replace(incident, state="resolved"))
    (decided,) = desk.governor.advance()
    assert (decided.id, decided.state) == (asked.id, "refused")
    assert desk.requests.decisions(asked.id)[-1].rule == "resolved"


def replaced(desk: Desk) -> tuple[Incident, Request]:
    """A drift whose model was replaced while its request waited."""
    desk.rollouts = lambda: [flight("finalizing")]
    incident = desk.incident("concept_drift")
    asked = desk.governor.consider(incident)
    desk.rollouts = lambda: [at_rest("v7", "rev")]
    (decided,) = desk.governor.advance()
    assert (decided.id, decided.state) == (asked.id, "waiting")
    last = desk.requests.decisions(asked.id)[-1]
    assert last.rule == "replaced"
    assert last.reason == "inc-1 is about a model that no longer serves, v7 does"
    return incident, decided


def test_a_drift_of_a_replaced_model_waits_for_the_new_ones_first_window(desk: Desk) -> None:
    incident, asked = replaced(desk)
    desk.incidents.save(replace(incident, state="resolved"))
    (decided,) = desk.governor.advance()
    assert (decided.id, decided.state) == (asked.id, "refused")
    assert desk.requests.decisions(asked.id)[-1].rule == "resolved"


def test_a_drift_of_a_model_that_comes_back_is_still_one(desk: Desk) -> None:
    _, asked = replaced(desk)
    desk.rollouts = lambda: [at_rest("rev", "v7")]
    (decided,) = desk.governor.advance()
    assert (decided.id, decided.state) == (asked.id, "pending")


@pytest.mark.parametrize(
    "elsewhere", [(), (at_rest("rev", "v7"),)], ids=["by others", "by another rollout"]
)
def test_what_is_at_rest_and_never_served_the_model_proves_nothing(
    desk: Desk, elsewhere: tuple[Rollout, ...]
) -> None:
    desk.rollouts = lambda: [at_rest("v5", "v4"), *elsewhere]
    assert desk.governor.consider(desk.incident("concept_drift")).state == "pending"


def test_after_a_rollback_the_drift_of_what_serves_is_still_one(desk: Desk) -> None:
    desk.rollouts = lambda: [flight("rolling_back")]
    asked = desk.governor.consider(desk.incident("concept_drift"))
    desk.rollouts = lambda: [at_rest("rev")]
    (decided,) = desk.governor.advance()
    assert (decided.id, decided.state) == (asked.id, "pending")


def test_a_person_is_not_held_by_a_rollout(desk: Desk) -> None:
    desk.rollouts = lambda: pytest.fail("nobody looks")
    assert desk.governor.request("manual", actor="me", reason="it is bad").state == "pending"


@pytest.mark.parametrize("trigger", HELD)
def test_rollouts_that_cannot_be_read_are_waited_for(desk: Desk, trigger: Trigger) -> None:
    def away() -> Iterable[Rollout]:
        raise Unavailable("the Kubernetes API does not answer")

    desk.rollouts = away
    asked = wish(desk, trigger)
    assert asked.state == "waiting"
    (decision,) = desk.requests.decisions(asked.id)
    assert decision.rule == "rollout"
    assert "cannot be told: the Kubernetes API does not answer" in decision.reason
    desk.rollouts = tuple
    assert [r.state for r in desk.governor.advance()] == ["pending"]
