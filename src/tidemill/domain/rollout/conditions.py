"""The conditions that people, dashboards and `kubectl wait` read: facts, not decisions."""

from __future__ import annotations

from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.edits import kept_plan
from tidemill.domain.rollout.gate import blockers, split_broken, standstill
from tidemill.domain.rollout.model import Condition, Now, Snapshot
from tidemill.domain.rollout.moves import late

__all__ = ["NEEDS_PERSON", "conditions"]

NEEDS_PERSON = {
    "inconclusive": "Inconclusive",
    "harm": "Harm",
    "unhealthy": "Unhealthy",
    "no way back": "StableUnavailable",
    "no route": "RouteNotInForce",
}
"""Why a rollout is `Stalled`, by the kind of its pause; the last one is none."""


def conditions(snapshot: Snapshot, now: Now) -> tuple[Condition, ...]:
    """Return the conditions of a rollout, in a fixed order."""
    found = [_available(snapshot), _applied(snapshot)]
    if snapshot.state.attempt is not None:
        found += [
            _canary_ready(snapshot),
            _verified(snapshot),
            _evidence(snapshot, now),
            _stable_healthy(snapshot),
            _progressing(snapshot, now),
            _stalled(snapshot, now),
            _plan_changed(snapshot),
        ]
    return (*found, _promoted(snapshot))


def _of(kind: str, holds: bool, reason: str, message: str = "") -> Condition:
    return Condition(kind, "True" if holds else "False", reason, message)


def _available(snapshot: Snapshot) -> Condition:
    stable = snapshot.state.stable
    if snapshot.workloads is None or stable is None:
        return Condition("Available", "Unknown", "NotObserved")
    ready = snapshot.ready(stable, TOTAL)
    return _of("Available", ready, "Ready" if ready else "StableUnavailable")


def _applied(snapshot: Snapshot) -> Condition:
    if snapshot.route is None:
        return Condition("TrafficApplied", "Unknown", "NotObserved", "the gateway did not answer")
    if snapshot.route.problem:
        return _of("TrafficApplied", False, "RouteNotAccepted", snapshot.route.problem)
    return _of("TrafficApplied", snapshot.applied, "InForce" if snapshot.applied else "Differs")


def _canary_ready(snapshot: Snapshot) -> Condition:
    attempt = snapshot.attempt
    seen = (snapshot.workloads or {}).get(attempt.canary.revision)
    ready = seen is not None and seen.carries(snapshot.state.load)
    return _of("CanaryReady", ready, "Ready" if ready else "NotReady", seen.detail if seen else "")


def _verified(snapshot: Snapshot) -> Condition:
    attempt = snapshot.attempt
    broken = split_broken(attempt, snapshot.state.epoch)
    return _of("TrafficVerified", not broken, "SampleRatioMismatch" if broken else "Consistent")


def _evidence(snapshot: Snapshot, now: Now) -> Condition:
    attempt, cause = snapshot.attempt, standstill(snapshot, now)
    if cause and cause[0] == "evidence":
        return _of("EvidenceAvailable", False, "Missing", cause[1])
    problem = attempt.evidence.problem or snapshot.reading.problem
    return _of("EvidenceAvailable", True, "Incomplete" if problem else "Complete", problem)


def _stable_healthy(snapshot: Snapshot) -> Condition:
    attempt = snapshot.attempt
    sick = [a.metric for a in attempt.assessments if a.stable_unhealthy]
    return _of("StableHealthy", not sick, "AboveMaxRate" if sick else "Within", ", ".join(sick))


def _progressing(snapshot: Snapshot, now: Now) -> Condition:
    state, attempt = snapshot.state, snapshot.attempt
    if state.phase == "paused":
        return _of("Progressing", False, "Paused", attempt.pause)
    until = snapshot.frozen_until(now) if state.phase in ("preparing", "progressing") else None
    frozen = [f"frozen until {until:%Y-%m-%d %H:%M} UTC"] if until else []
    if state.phase != "progressing":
        return _of("Progressing", True, state.phase.title().replace("_", ""), *frozen)
    waiting = blockers(snapshot, now)
    if frozen and not waiting:
        return _of("Progressing", False, "Frozen", *frozen)
    approval = waiting == ["waits for approval"]
    return _of("Progressing", True, "WaitingApproval" if approval else "WaitingGate",
               "; ".join([*waiting, *frozen]))  # fmt: skip


def _stalled(snapshot: Snapshot, now: Now) -> Condition:
    state, attempt = snapshot.state, snapshot.attempt
    reason = NEEDS_PERSON.get(attempt.pause, "")
    if attempt.harmed and not attempt.override and state.phase in ("promoting", "finalizing"):
        frozen = attempt.plan.policy.on_harm == "freeze"
        reason = NEEDS_PERSON["harm" if frozen else "no way back"]
    if state.phase == "rolling_back" and not snapshot.applied and late(state, now, attempt):
        reason = NEEDS_PERSON["no route"]
    return _of("Stalled", bool(reason), reason or "No")


def _plan_changed(snapshot: Snapshot) -> Condition:
    edited = snapshot.attempt.edited
    return _of("PlanChanged", bool(edited), "NextAttempt" if edited else "No", kept_plan(edited))


def _promoted(snapshot: Snapshot) -> Condition:
    state, desired = snapshot.state, snapshot.spec.desired
    finalizing = state.stable if state.phase == "finalizing" else None
    if desired == (state.serving or finalizing):
        return _of("Promoted", True, "Promoted")
    if state.phase == "stable" and state.closed == desired.revision and state.history:
        last = state.history[0]
        return _of("Promoted", False, last.outcome.title().replace("_", ""), last.reason)
    return _of("Promoted", False, "InFlight")
