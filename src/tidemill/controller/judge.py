"""The judge: answers what the evidence says of an attempt that somebody else carries out.

All that it remembers of an attempt is written by compare-and-swap before it answers: any number of
judges may be asked at once, repeatedly, and after a restart, and each count is counted once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from time import sleep

from tidemill.controller.questions import Asked
from tidemill.domain.rollout.judge import Finding, Question, begin, find, look, turn
from tidemill.domain.rollout.model import Now, Plan, Revision, State, Workload
from tidemill.domain.rollout.readings import Reading
from tidemill.errors import Conflict, NotFound, Refused, RetryableError, UsageError
from tidemill.ports.rollout import Attempts, CounterSource, Locator

__all__ = ["Judge"]

TRIES = 50
"""Of writing before whoever asks about the same attempt at the same time; each loses to one."""


class Judge:
    """Looks at the servers each time it is asked."""

    def __init__(
        self,
        attempts: Attempts,
        locator: Locator,
        counters: CounterSource,
        plan: Plan,
        wall: Callable[[], datetime],
    ) -> None:
        """`plan` has the metrics and error rates of attempts that begin from now on."""
        self._attempts = attempts
        self._locator = locator
        self._counters = counters
        self._plan = plan
        self._wall = wall

    def answer(self, asked: Asked) -> Finding:
        """Look at the evidence and say what it says.

        What cannot be read is `missing` in the answer. Raises UsageError when the question does not
        fit the attempt, Unavailable when the store does not answer.
        """
        self._check_gate(asked)
        for lost in range(TRIES):
            try:
                return self._look(asked)
            except Conflict:
                sleep(random.uniform(0, 0.01 * min(lost + 1, 10)))  # noqa: S311
        raise Conflict(f"attempt {asked.attempt}: others wrote {TRIES} times", hint="ask again")

    def recall(self, attempt: str) -> Finding:
        """Say what is known of an attempt without a look, whatever would be asked for.

        Raises NotFound.
        """
        found = self._attempts.state(attempt)
        if found is None:
            raise NotFound(f"nobody asked about the attempt '{attempt}'", hint="POST /v1/judge")
        state = found[0]
        wall = self._wall()
        recalled = find(state, Question(attempt, state.weight), Reading(), Now(wall, wall))
        if recalled.verdict != "pass":
            return recalled
        return replace(recalled, verdict="undecided", reason="nothing was asked for")

    def forget(self, attempt: str) -> None:
        """Forget an attempt: the next question begins another one, with an alpha of its own."""
        self._attempts.forget(attempt)

    def _look(self, asked: Asked) -> Finding:
        now = Now(self._wall(), self._wall())
        workloads, problem = self._locate(asked)
        state, version = self._attempts.state(asked.attempt) or (None, 0)
        if state is None:
            problem = problem or _overlap(workloads)
            begun = None if problem else self._begin(asked, workloads, now)
            if not isinstance(begun, State):
                reason = problem or begun or ""
                return Finding(asked.attempt, "missing", reason, asked.question.weight, (0, 0))
            state = begun
        _check_arms(state, asked)
        if state.attempt and state.attempt.failure:
            return find(state, asked.question, Reading(), now)
        state = turn(state, asked.question, now)
        reading = Reading(problem=problem)
        if not problem:
            reading = self._read(state, workloads)
        state = look(state, asked.question, reading, now)
        self._attempts.commit(asked.attempt, state, version, now.wall)
        return find(state, asked.question, reading, now)

    def _locate(self, asked: Asked) -> tuple[Mapping[str, Workload], str]:
        try:
            return {
                "stable": self._locator.locate(asked.stable),
                "canary": self._locator.locate(asked.canary),
            }, ""
        except (RetryableError, NotFound, Refused) as error:
            return {}, error.message

    def _begin(self, asked: Asked, workloads: Mapping[str, Workload], now: Now) -> State | str:
        """Begin an attempt between what the servers call themselves; a text says why not."""
        said = {"stable": asked.stable_revision, "canary": asked.canary_revision}
        for arm, workload in workloads.items():
            try:
                reported = {said[arm]} if said[arm] else self._counters.revisions(workload)
            except RetryableError as error:
                return error.message
            if len(reported) != 1:
                names = ", ".join(sorted(reported)) or "none"
                return f"{arm}: its servers report the revisions {names}; say {arm}_revision"
            (said[arm],) = reported
        tails = asked.tails
        metrics = tuple(m for m in self._plan.metrics if not m.delayed and (tails or not m.wanted))
        stable, canary = (
            Revision(arm, "", "", f"sha256:{said[arm]}", where, 0.0, tails or (0.0, 0.0))
            for arm, where in (("stable", asked.stable), ("canary", asked.canary))
        )
        return begin(stable, canary, replace(self._plan, metrics=metrics), asked.question, now)

    def _read(self, state: State, workloads: Mapping[str, Workload]) -> Reading:
        attempt, arms = state.attempt, state.arms
        assert attempt
        assert arms
        assert state.applied_at
        problem = _overlap(workloads)
        if problem:
            return Reading(problem=problem)
        tails = arms[0].score_tails if any(m.wanted for m in attempt.plan.metrics) else None
        settled = state.applied_at + timedelta(seconds=attempt.plan.settle_seconds)
        reported = {arm.revision: arm.reported for arm in arms}
        counters, problems = self._counters.read(workloads, reported, tails, settled)
        return Reading(counters, problem="; ".join(problems))

    def _check_gate(self, asked: Asked) -> None:
        known = {
            m.name for m in self._plan.metrics if not m.delayed and (asked.tails or not m.wanted)
        }
        unknown = [name for name in asked.gate if name not in known]
        if unknown:
            raise UsageError(
                f"gate: {', '.join(unknown)} is not judged here, known: {', '.join(sorted(known))}",
                hint="metrics are rollout.analysis.metrics; those of scores need low and high, "
                "those of labels only the rollout's own controller has",
            )


def _overlap(workloads: Mapping[str, Workload]) -> str:
    """Say which server is in both arms: its counters would be compared with themselves."""
    stable, canary = ({w.address, *w.servers.values()} for w in workloads.values())
    both = sorted(stable & canary)
    return f"{both[0]} is a server of both arms" if both else ""


def _check_arms(state: State, asked: Asked) -> None:
    assert state.attempt
    assert state.stable
    known = state.stable.bundle, state.attempt.canary.bundle
    if known != (asked.stable, asked.canary):
        raise UsageError(
            f"attempt {asked.attempt} compares {known[0]} with {known[1]}, "
            f"asked was {asked.stable} with {asked.canary}",
            hint="another comparison is another attempt: give it another name",
        )
