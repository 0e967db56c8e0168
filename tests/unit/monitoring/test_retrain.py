"""The governor on a real store: one run at a time, whatever dies and whoever comes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.governor_race import ask
from tests.retrain_world import NOW, TRAINED, Desk, at_rest, flight

from tidemill.domain.governor import Request
from tidemill.domain.verdicts import Cause
from tidemill.errors import Conflict, NotFound, Unavailable


def test_concept_drift_runs_the_expanding_window(desk: Desk) -> None:
    asked = desk.governor.consider(desk.incident("concept_drift"))
    assert asked.state == "pending"
    launcher, runs = desk.launcher()
    done = launcher.launch(asked)
    assert (done.state, done.run_id, done.correlation_id) == ("succeeded", "run-1", "inc-1")
    parameters = {"as_of": NOW.isoformat(), "correlation_id": "inc-1", "window_start": ""}
    assert runs.launched == [("training", parameters, "")]
    assert [d.verb for d in desk.requests.decisions(done.id)] == ["RUN"]


def test_a_sliding_window_starts_that_many_days_back(desk: Desk) -> None:
    asked = desk.governor.request("manual", actor="me", reason="try it")
    launcher, runs = desk.launcher(window="28d")
    launcher.launch(asked)
    assert runs.launched[0][1]["window_start"] == (NOW - timedelta(28)).isoformat()


@pytest.mark.parametrize("cause", ["data_quality", "skew", "code_bug", "covariate_shift"])
def test_other_causes_are_refused_on_record(desk: Desk, cause: Cause) -> None:
    asked = desk.governor.consider(desk.incident(cause))
    assert asked.state == "refused"
    (decision,) = desk.requests.decisions(asked.id)
    assert decision.verb == "REFUSE"
    assert cause in decision.reason


def test_a_fault_makes_others_wait_until_it_is_resolved(desk: Desk) -> None:
    fault = desk.incident("data_quality", "inc-2")
    asked = desk.governor.request("manual", actor="me", reason="now")
    assert desk.requests.decisions(asked.id)[-1].rule == "fault"
    desk.incidents.save(replace(fault, state="resolved"))
    (decided,) = desk.governor.advance()
    assert decided.state == "pending"


def test_who_waits_for_a_lock_is_told_of_the_next_one(desk: Desk) -> None:
    desk.clock.instant = TRAINED + timedelta(days=28)
    first = desk.governor.request("ci", actor="ci", reason="code", key="a")
    (scheduled,) = desk.governor.advance()
    launcher, _ = desk.launcher("cancelled")
    launcher.launch(first)
    second = desk.governor.request("ci", actor="ci", reason="code", key="b")
    assert second.state == "pending"
    (waiting,) = desk.governor.advance()
    assert (waiting.id, waiting.served_by) == (scheduled.id, second.id)
    launcher, _ = desk.launcher()
    launcher.launch(second)
    assert [r.state for r in desk.governor.advance()] == ["satisfied"]


def test_the_same_incident_asks_once(desk: Desk) -> None:
    incident = desk.incident("concept_drift")
    first = desk.governor.consider(incident)
    assert desk.governor.consider(incident) == first
    assert len(desk.requests.all("m")) == 1


def test_two_causes_at_once_make_one_run(desk: Desk) -> None:
    desk.clock.instant = TRAINED + timedelta(days=28)
    first = desk.governor.consider(desk.incident("concept_drift"))
    (second,) = desk.governor.advance()
    assert (first.state, second.state, second.served_by) == ("pending", "waiting", first.id)
    launcher, runs = desk.launcher()
    launcher.launch(first)
    (served,) = desk.governor.advance()
    assert served.state == "satisfied"
    assert first.id in served.outcome
    assert len(runs.launched) == 1


def test_a_schedule_asks_once_per_training(desk: Desk) -> None:
    assert desk.governor.advance() == []
    desk.clock.instant = TRAINED + timedelta(days=28)
    (asked,) = desk.governor.advance()
    assert (asked.trigger, asked.state) == ("schedule", "pending")
    launcher, _ = desk.launcher()
    launcher.launch(asked)
    assert desk.governor.advance() == []
    desk.clock.instant += timedelta(days=27)
    assert desk.governor.advance() == []


def test_nothing_is_scheduled_before_a_model_serves(desk: Desk) -> None:
    desk.champion = None
    desk.clock.instant += timedelta(days=300)
    assert desk.governor.advance() == []


def test_labels_have_to_mature(store: Engine) -> None:
    desk = Desk(store)
    asked = desk.governor.consider(desk.incident("concept_drift"))
    assert desk.requests.decisions(asked.id)[-1].rule == "labels"
    desk.labels(3000, NOW - timedelta(days=2))
    desk.governor.advance()
    assert len(desk.requests.decisions(asked.id)) == 1, "a count that grows is no news"
    desk.labels(2000, NOW - timedelta(days=3))
    (decided,) = desk.governor.advance()
    assert decided.state == "pending"


def test_the_budget_ends_with_a_person_and_frees_itself(store: Engine) -> None:
    desk = Desk(store, budget=2)
    launcher, _ = desk.launcher()
    for commit in ("a", "b"):
        launcher.launch(desk.governor.request("ci", actor="ci", reason="code", key=commit))
    third = desk.governor.request("ci", actor="ci", reason="code", key="c")
    assert third.state == "escalated"
    assert desk.requests.decisions(third.id)[-1].rule == "budget"
    by_hand = desk.governor.request("manual", actor="me", reason="I looked")
    assert by_hand.state == "pending"
    launcher.launch(by_hand)
    desk.clock.instant += timedelta(days=31)
    assert desk.governor.request("ci", actor="ci", reason="code", key="d").state == "pending"


def test_a_failed_run_is_tried_again_then_a_person_is_asked(desk: Desk) -> None:
    launcher, runs = desk.launcher("failed", "timed_out")
    asked = desk.governor.request("manual", actor="me", reason="now")
    assert launcher.launch(asked).state == "waiting"
    (again,) = desk.governor.advance()
    assert launcher.launch(again).state == "waiting"
    (given_up,) = desk.governor.advance()
    assert given_up.state == "escalated"
    assert len(runs.launched) == 2


def test_a_model_that_does_not_pass_ends_a_drift_request_with_a_person(desk: Desk) -> None:
    launcher, _ = desk.launcher("refused")
    done = launcher.launch(desk.governor.consider(desk.incident("concept_drift")))
    assert done.state == "rejected"
    assert desk.requests.decisions(done.id)[-1].verb == "ESCALATE"


def test_a_cancelled_run_stays_cancelled(desk: Desk) -> None:
    launcher, _ = desk.launcher("cancelled")
    done = launcher.launch(desk.governor.request("manual", actor="me", reason="now"))
    assert done.state == "refused"
    assert desk.governor.advance() == []


def test_a_platform_that_is_down_leaves_the_request_waiting(desk: Desk) -> None:
    launcher, _ = desk.launcher(Unavailable("no platform"))
    asked = desk.governor.request("manual", actor="me", reason="now")
    with pytest.raises(Unavailable):
        launcher.launch(asked)
    (again,) = desk.governor.advance()
    assert again.state == "pending"


def orphan(desk: Desk, run_id: str, asked: Request | None = None) -> Request:
    """A request whose run began in a process that was killed."""
    asked = asked or desk.governor.request("manual", actor="me", reason="now")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ticks = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        owner = f"{os.uname().nodename}:{other.pid}:{ticks}"
        begun = replace(asked, state="running", attempts=1, owner=owner, run_id=run_id)
        running = desk.requests.save(begun)
        assert desk.governor.advance() == [], "its process lives"
        other.send_signal(signal.SIGKILL)
    (again,) = desk.governor.advance()
    assert (again.state, again.accepted_at) == ("pending", running.accepted_at)
    return again


def test_a_run_whose_process_was_killed_continues(desk: Desk) -> None:
    launcher, runs = desk.launcher("failed")
    killed = runs.launch("training")
    again = orphan(desk, killed.run_id)
    desk.clock.instant += timedelta(hours=5)
    assert launcher.launch(again).state == "succeeded"
    _, parameters, resumed = runs.launched[-1]
    assert resumed == killed.run_id
    assert parameters["as_of"] == NOW.isoformat()


def test_a_run_that_succeeded_unrecorded_is_recorded_and_not_run_again(desk: Desk) -> None:
    launcher, runs = desk.launcher()
    done = runs.launch("training")
    assert launcher.launch(orphan(desk, done.run_id)).state == "succeeded"
    assert len(runs.launched) == 1


@pytest.mark.parametrize("promoted", [False, True])
def test_the_rollout_that_a_run_ordered_does_not_end_it(desk: Desk, promoted: bool) -> None:
    launcher, runs = desk.launcher()
    asked = desk.governor.consider(desk.incident("concept_drift"))
    done = runs.launch("training")
    desk.rollouts = lambda: [at_rest("v7") if promoted else flight("progressing")]
    assert launcher.launch(orphan(desk, done.run_id, asked)).state == "succeeded"
    assert len(runs.launched) == 1


def test_a_run_that_somebody_still_holds_costs_no_attempt(desk: Desk) -> None:
    launcher, runs = desk.launcher("failed", Conflict("run-1 is still running"))
    again = orphan(desk, runs.launch("training").run_id)
    with pytest.raises(Conflict):
        launcher.launch(again)
    (left,) = desk.requests.all("m")
    assert (left.state, left.attempts) == ("pending", again.attempts)
    assert launcher.launch(left).state == "succeeded"


def test_a_process_of_the_same_number_is_another_one(desk: Desk) -> None:
    asked = desk.governor.request("manual", actor="me", reason="now")
    owner = f"{os.uname().nodename}:{os.getpid()}:1"
    desk.requests.save(replace(asked, state="running", attempts=1, owner=owner))
    assert [again.state for again in desk.governor.advance()] == ["pending"]


def test_of_two_launchers_one_runs(desk: Desk) -> None:
    asked = desk.governor.request("manual", actor="me", reason="now")
    first, runs = desk.launcher()
    second, others = desk.launcher()
    first.launch(asked)
    with pytest.raises(Conflict):
        second.launch(asked)
    assert (len(runs.launched), len(others.launched)) == (1, 0)


def test_an_unknown_request_is_named(desk: Desk) -> None:
    desk.governor.request("manual", actor="me", reason="now")
    with pytest.raises(NotFound, match="no request 'req-nope'"):
        desk.requests.decisions("req-nope")


@pytest.mark.slow
def test_sixteen_processes_at_once_get_one_run(url: str, store: Engine) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.governor_race"])
    with context.Pool(16) as pool:
        same = pool.starmap(ask, [(url, n, "same") for n in range(16)], chunksize=1)
        others = pool.starmap(ask, [(url, n, f"own {n}") for n in range(16)], chunksize=1)
    desk = Desk(store)
    assert set(same) <= {"pending", "waiting"}
    assert set(others) == {"waiting"}
    assert [r.state for r in desk.requests.all("m")].count("pending") == 1
    assert len(desk.requests.all("m")) == 17
    assert len(desk.requests.accepted("m")) == 1


def test_a_run_is_not_accepted_on_an_old_view_of_the_budget(desk: Desk) -> None:
    asked = desk.governor.request("ci", actor="ci", reason="code", key="a")
    launcher, _ = desk.launcher()
    launcher.launch(asked)
    other = replace(asked, id="req-b", state="waiting", edits=0)
    saved, _ = desk.requests.submit(other)
    with pytest.raises(Conflict, match="accepted meanwhile"):
        desk.requests.save(replace(saved, state="pending"), accepted=0)
    assert [r.state for r in desk.requests.all("m")].count("pending") == 0
