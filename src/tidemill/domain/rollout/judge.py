"""A rollout that somebody else carries out: they move the weight, this says what the counts say.

The state is an attempt's, the evidence is consumed and judged by the functions that the rollout's
own controller uses (`windows`, `gate`): the error rates are the same. Harm is final for an attempt:
a test that may stop at any time has rejected once it has rejected at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.domain.evidence import TOTAL, Assessment, Pair, Verdict
from tidemill.domain.rollout.forecast import events_left
from tidemill.domain.rollout.gate import blockers, split_broken, standstill
from tidemill.domain.rollout.model import (
    Attempt,
    Now,
    Plan,
    Revision,
    Snapshot,
    Spec,
    State,
    Step,
    Workload,
    intent,
)
from tidemill.domain.rollout.moves import weigh
from tidemill.domain.rollout.readings import Reading
from tidemill.domain.rollout.windows import REQUESTS, absorb

__all__ = ["Expected", "Finding", "Judged", "Question", "begin", "find", "look", "turn"]

FOREVER = 1e9
PRESENT = {name: Workload(1, 1, "") for name in ("stable", "canary")}
"""Whether servers are ready is the caller's business."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks of an attempt."""

    attempt: str
    """Its name, the caller's choice; everything that is remembered is kept under it."""
    weight: int
    """Share of requests that the canary gets now, in 1/10000."""
    gate: tuple[str, ...] = ()
    """Metrics that must pass."""
    min_events: int = 0
    """Requests that both arms must have answered under this weight."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a pass still takes if the canary is as good as stable, roughly the mean."""

    bad_events: float
    """Of both arms."""
    requests: float | None
    """Of both arms, at the rate of bad events so far; None before the first."""
    seconds: float | None
    """At the rate of requests under this weight so far; None before the first."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One metric's numbers, and what is left until it passes."""

    assessment: Assessment
    expected: Expected | None
    """None once it has passed, and when it has no evidence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to a question."""

    attempt: str
    verdict: Verdict
    reason: str
    weight: int
    requests: Pair
    """Answered by stable and canary under this weight."""
    metrics: tuple[Judged, ...] = ()


def begin(stable: Revision, canary: Revision, plan: Plan, question: Question, now: Now) -> State:
    """Begin an attempt: the weight counts as in force from now on."""
    attempt = Attempt(1, canary, plan, 1, now.wall)
    state = State(phase="progressing", stable=stable, attempt=attempt, attempts=1)
    return _weigh(state, question.weight, now)


def turn(state: State, question: Question, now: Now) -> State:
    """Return the state under the question's weight; another one than before begins to settle."""
    return state if question.weight == state.weight else _weigh(state, question.weight, now)


def look(state: State, question: Question, reading: Reading, now: Now) -> State:
    """Return the state with the reading consumed; what it says of harm is kept for good."""
    attempt = absorb(_snapshot(state, question, reading), now)
    assert attempt
    harm = next((a for a in attempt.assessments if a.verdict == "harm"), None)
    if harm and not attempt.failure:
        attempt = replace(attempt, failure=f"harm in {harm.metric}: {harm.reason}")
    return replace(state, attempt=attempt)


def find(state: State, question: Question, reading: Reading, now: Now) -> Finding:
    """Say what the evidence says: harm, pass, or neither and what is waited for."""
    snapshot = _snapshot(state, question, reading)
    attempt = snapshot.attempt
    verdict, reason = _verdict(snapshot, now)
    segments = [s for s in attempt.evidence.series.get(REQUESTS, ()) if s.epoch == state.epoch]
    requests = sum(s.trials[0] for s in segments), sum(s.trials[1] for s in segments)
    rate = _rate(attempt, sum(requests), now)
    metrics = tuple(
        Judged(a, _expected(attempt, a, state.weight, rate)) for a in attempt.assessments
    )
    return Finding(question.attempt, verdict, reason, state.weight, requests, metrics)


def _weigh(state: State, weight: int, now: Now) -> State:
    state = replace(weigh(state, now, "progressing", weight), applied_at=now.wall)
    assert state.attempt
    entered = replace(state.attempt, entered_at=now.clock, entered_wall=now.wall)
    return replace(state, attempt=entered)


def _snapshot(state: State, question: Question, reading: Reading) -> Snapshot:
    """Return what the core judges: the question is the plan's only step."""
    attempt = state.attempt
    assert attempt
    step = Step("", state.weight, question.gate, question.min_events, 0.0, FOREVER, approval=False)
    plan = replace(attempt.plan, steps=(step,))
    asked = replace(state, attempt=replace(attempt, plan=plan))
    spec = Spec(1, attempt.canary, plan)
    return Snapshot(spec, asked, PRESENT, intent(state).route, reading)


def _verdict(snapshot: Snapshot, now: Now) -> tuple[Verdict, str]:
    state, attempt = snapshot.state, snapshot.attempt
    if attempt.failure:
        return "harm", attempt.failure
    problem = snapshot.reading.problem or attempt.evidence.problem
    cause = standstill(snapshot, now)
    if problem or (cause and cause[0] == "evidence"):
        return "missing", problem or (cause[1] if cause else "")
    if cause:
        return "undecided", cause[1]
    if split_broken(attempt, state.epoch):
        return "missing", "the observed split of requests contradicts the weight"
    if not 0 < state.weight < TOTAL:
        return "undecided", f"nothing to compare at a weight of {state.weight / 100:g} %"
    waiting = blockers(snapshot, now)
    if not waiting:
        return "pass", "all that was asked for holds"
    return "undecided", "; ".join(waiting)


def _rate(attempt: Attempt, requests: int, now: Now) -> float:
    """Return requests per second under this weight so far."""
    since = attempt.entered_wall or now.wall
    return requests / max((now.wall - since).total_seconds(), 1e-9)


def _expected(attempt: Attempt, found: Assessment, weight: int, rate: float) -> Expected | None:
    metric = next(m for m in attempt.plan.metrics if m.name == found.metric)
    trials, bad = sum(found.trials), sum(found.bad)
    if found.verdict != "undecided" or not 0 < weight < TOTAL:
        return None
    events = events_left(metric, attempt.plan.tolerance, weight, found.log_e_pass)
    requests = events * trials / bad if bad else None
    seconds = requests / rate if requests is not None and rate else None
    return Expected(events, requests, seconds)
