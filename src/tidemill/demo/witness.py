"""What the demo sees of the platform after each step: the very records that on-call engineers read.

It only reads stores; every decision it tells of was taken by the platform's own processes.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from tidemill.demo.story import Canary, Point, Story

if TYPE_CHECKING:
    from tidemill.domain.evidence import Assessment
    from tidemill.domain.governor import Request
    from tidemill.domain.rollout.model import Decision
    from tidemill.domain.verdicts import WindowVerdict
    from tidemill.wiring import Project

__all__ = ["Witness"]

TOLD = {
    "deploy": "version {version} released",
    "begin": "canary of version {version} begins",
    "weight": "canary of version {version} gets {share}",
    "pause": "canary of version {version} paused",
    "rollback": "version {version} rolled back",
    "finalize": "version {version} promoted",
}


class Witness:
    """Turns new records into events and series of the story."""

    def __init__(self, project: Project, story: Story) -> None:
        self._project = project
        self._story = story
        self._model = project.settings.registry.model
        self._decisions = 0
        self._seen: set[tuple[str, ...]] = set()
        self._evidence: dict[tuple[int, str], list[tuple[str, int, Assessment]]] = defaultdict(list)
        self._versions: dict[str, str] = {}
        self._canaries: dict[int, str] = {}
        self.ran: set[str] = set()
        """Triggers of the retrainings that the governor let run."""
        self.promoted: list[str] = []
        """Versions that a canary brought to all traffic."""
        self.rolled_back: list[str] = []
        """Versions that a canary rolled back for harm, not for a newer version or a person."""

    def look(self) -> None:
        """Note what is new since the last look."""
        self._requests()
        self._rollout()
        self._windows()
        self._incidents()

    def finish(self) -> None:
        """Turn the collected evidence into the story's series."""
        for (attempt, metric), rows in self._evidence.items():
            last = rows[-1][2]
            self._story.canaries.append(
                Canary(
                    version=self._canaries[attempt],
                    metric=metric,
                    at=tuple(at for at, _, _ in rows),
                    weight=tuple(weight for _, weight, _ in rows),
                    log_e_harm=tuple(a.log_e_harm for _, _, a in rows),
                    log_e_pass=tuple(a.log_e_pass for _, _, a in rows),
                    harm_at=last.harm_at,
                    pass_at=last.pass_at,
                    outcome=self._outcome(attempt),
                )
            )

    def _outcome(self, attempt: int) -> str:
        state, _ = self._project.rollouts.state(self._project.settings.name)
        found = [o for o in state.history if o.attempt == attempt]
        if not found:
            return "in flight"
        return f"{found[0].outcome.replace('_', ' ')}: {found[0].reason}".rstrip(": ")

    def _new(self, *key: str) -> bool:
        fresh = key not in self._seen
        self._seen.add(key)
        return fresh

    def _rollout(self) -> None:
        rollouts, name = self._project.rollouts, self._project.settings.name
        state, _ = rollouts.state(name)
        for revision in (state.stable, state.previous, state.attempt and state.attempt.canary):
            if revision:
                self._versions[revision.revision] = revision.version
        for decision in rollouts.decisions(name):
            if decision.seq > self._decisions:
                self._decisions = decision.seq
                self._canaries.setdefault(decision.attempt, self._version(decision))
                self._remember(decision.attempt, decision.clock, decision.weight, decision.evidence)
                self._tell(decision)
        if state.attempt:
            self._canaries[state.attempt.number] = state.attempt.canary.version
            now, weight = self._project.clock.now(), state.weight
            self._remember(state.attempt.number, now, weight, state.attempt.assessments)

    def _remember(
        self, attempt: int, at: datetime, weight: int, assessments: Iterable[Assessment]
    ) -> None:
        for assessment in assessments:
            rows = self._evidence[attempt, assessment.metric]
            rows.append((at.isoformat(), weight, assessment))

    def _version(self, decision: Decision) -> str:
        return self._versions.get(decision.revision, decision.revision)

    def _tell(self, decision: Decision) -> None:
        version = self._version(decision)
        text = TOLD.get(decision.action)
        if text is None:
            return
        share = f"{decision.weight / 100:g} %"
        title = text.format(version=version, share=share)
        self._story.note(decision.clock, title, decision.reason)
        if decision.action == "finalize":
            self.promoted.append(version)
        found = [a.verdict for a in decision.evidence] + [a.verdict for a in decision.paired]
        if decision.action == "rollback" and "harm" in found:
            self.rolled_back.append(version)

    def _requests(self) -> None:
        for request in self._project.requests.all(self._model):
            for decision in self._project.requests.decisions(request.id):
                if self._new(request.id, decision.verb, decision.rule):
                    self._story.note(
                        datetime.fromisoformat(decision.at),
                        f"retraining ({request.trigger}): {decision.verb}",
                        decision.reason,
                    )
                    if decision.verb == "RUN":
                        self.ran.add(request.trigger)
            if (
                request.run_id
                and request.finished_at
                and self._new(request.id, request.state, request.finished_at)
            ):
                self._ended(request)

    def _ended(self, request: Request) -> None:
        run = self._project.runs.status(request.run_id)
        at = datetime.fromisoformat(request.finished_at)
        told = request.state == "rejected"  # with the decision to escalate
        reason = "" if told or request.outcome == request.state else request.outcome
        self._story.note(at, f"retraining run {request.state}", reason)
        self._story.add_run(f"retraining ({request.trigger})", run)

    def _windows(self) -> None:
        for verdict in self._project.windows.last(self._model, 14):
            if verdict.status != "extended" and self._new("window", verdict.end):
                self._story.points.append(_point(verdict))

    def _incidents(self) -> None:
        for incident in self._project.incidents.all(self._model):
            if self._new(incident.id, incident.state):
                self._story.note(
                    self._project.clock.now(),
                    f"incident {incident.id} {incident.state}: {incident.cause}",
                    "; ".join(incident.numbers) if incident.state == "open" else "",
                )


def _point(verdict: WindowVerdict) -> Point:
    scores = [abs(value) for name, value in verdict.performance.items() if name.endswith("_z")]
    features = [value for name, value in verdict.psi.items() if name != "score"]
    return Point(
        day=verdict.start,
        drift=statistics.median(features) if features else None,
        performance=max((s for s in scores if math.isfinite(s)), default=None),
    )
