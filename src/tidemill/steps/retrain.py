"""retrain: decide what incidents, schedule and wishes may start (`domain.governor`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from tidemill.bundle import read_manifest
from tidemill.domain.governor import (
    HELD,
    Decision,
    Limits,
    Request,
    RequestState,
    Situation,
    Trigger,
    Verb,
    decide,
    request_id,
)
from tidemill.domain.incidents import Incident
from tidemill.domain.rollout.flight import Rollout
from tidemill.errors import Conflict, IntegrityError, TidemillError
from tidemill.ports.clock import Clock
from tidemill.ports.monitoring import Bundles, Decisions, Incidents, Requests, Windows
from tidemill.ports.objects import ObjectStore
from tidemill.settings.monitoring import RetrainingSettings
from tidemill.steps.prediction_log import read_labels
from tidemill.steps.retrain_run import gone

__all__ = ["Champion", "Governor", "limits", "serving"]

RACES = 20
"""How often a request is decided again because somebody else wrote first."""
LATE_LABELS = timedelta(days=3)
"""How long before the last training an event may be scheduled whose label came after it."""
MERGED: tuple[Trigger, ...] = ("schedule", "concept_drift")
"""Causes that any finished run serves; a person or a commit wants its own."""
STATES: dict[Verb, RequestState] = {
    "RUN": "pending",
    "WAIT": "waiting",
    "REFUSE": "refused",
    "ESCALATE": "escalated",
}


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that serves."""

    revision: str
    trained_as_of: datetime
    """What was known at this instant went into its training."""


class Governor:
    """Decides the requests for one model."""

    def __init__(
        self,
        model: str,
        *,
        requests: Requests,
        decisions: Decisions,
        incidents: Incidents,
        objects: ObjectStore,
        champion: Callable[[], Champion | None],
        rollouts: Callable[[], Iterable[Rollout]],
        clock: Clock,
        settings: RetrainingSettings,
    ) -> None:
        """`rollouts` looks at those of the model."""
        self._model = model
        self._requests = requests
        self._decisions = decisions
        self._incidents = incidents
        self._objects = objects
        self._champion = champion
        self._rollouts = rollouts
        self._clock = clock
        self._settings = settings

    def request(
        self, trigger: Trigger, *, actor: str, reason: str, key: str = "", correlation: str = ""
    ) -> Request:
        """Record a wish to retrain and decide it; the same `key` again is the same wish.

        An empty key makes a wish of its own, once per instant of the clock.
        """
        wish = self._submit(trigger, actor, reason, key, correlation)
        return self._decide(wish) if wish.state == "waiting" else wish

    def _submit(
        self, trigger: Trigger, actor: str, reason: str, key: str, correlation: str = ""
    ) -> Request:
        now = self._clock.now().isoformat()
        champion = self._champion()
        revision = champion.revision if champion else ""
        identity = request_id(self._model, revision, trigger, key or f"{actor} {now}")
        wish = Request(
            id=identity,
            model=self._model,
            revision=revision,
            trigger=trigger,
            actor=actor,
            reason=reason,
            requested_at=now,
            correlation_id=correlation or identity,
        )
        return self._requests.submit(wish)[0]

    def consider(self, incident: Incident) -> Request:
        """Ask for what an incident calls for: a retraining, or a refusal on record with its why."""
        return self.request(
            incident.cause,
            actor="monitor",
            reason=incident.numbers[0] if incident.numbers else incident.cause,
            key=incident.id,
            correlation=incident.id,
        )

    def advance(self) -> list[Request]:
        """Ask for a scheduled retraining if one is due, then decide again whatever waits.

        A run whose process is gone waits again; it continues where it stopped once it may.
        """
        self._schedule()
        for request in self._all():
            if request.state == "running" and gone(request):
                text = f"its process {request.owner} is gone"
                self._requests.save(replace(request, state="waiting", outcome=text))
        return [self._decide(request) for request in self._all() if request.state == "waiting"]

    def pending(self) -> Request | None:
        """Return the accepted request whose run has not begun."""
        found = (r for r in self._all() if r.state == "pending")
        return next(found, None)

    def situation(self, request: Request) -> Situation:
        """Look at everything that the rules need."""
        now = self._clock.now()
        last = self.last_training()
        standing = self._incidents.all(self._model, unresolved=True)
        own = next(
            (i for i in self._incidents.all(self._model) if i.id == request.correlation_id), None
        )
        flights, found = self._look() if request.trigger in HELD else ((), ())
        counts = request.trigger in ("schedule", "concept_drift")
        return Situation(
            now=now,
            last_training=last,
            new_labels=self._labels_since(last, now) if last and counts else 0,
            accepted=tuple(
                datetime.fromisoformat(d.at) for d in self._decisions.accepted(self._model)
            ),
            active=next((r.id for r in self._all() if r.active), ""),
            rollouts=flights,
            replaced=_replaced(own, found),
            faults=tuple(f"{i.cause} ({i.id})" for i in standing if i.blocks),
            resolved=own is not None and not own.unresolved,
            excluded=own is None or own.retraining,
        )

    def last_training(self) -> datetime | None:
        """Return when the newest training took place: the champion's, or a later run's."""
        champion = self._champion()
        trained = [champion.trained_as_of] if champion else []
        trained += [
            datetime.fromisoformat(request.accepted_at)
            for request in self._all()
            if request.state in ("succeeded", "rejected")
        ]
        return max(trained, default=None)

    def _look(self) -> tuple[tuple[str, ...], tuple[Rollout, ...]]:
        """Say which rollouts are in flight, in words, and return all that were found.

        One that cannot be read may be in flight.
        """
        try:
            found = tuple(self._rollouts())
        except TidemillError as error:
            return (f"whether a rollout is in flight cannot be told: {error.message}",), ()
        return tuple(f"in rollout {r.name} {r.in_flight}" for r in found if r.in_flight), found

    def _schedule(self) -> None:
        """Ask for a scheduled retraining, once per training, when the last one is old enough."""
        last = self.last_training()
        due = timedelta(days=self._settings.schedule_days)
        if self._champion() is None or last is None or self._clock.now() < last + due:
            return
        reason = f"{due.days} days since the last training"
        self._submit("schedule", "schedule", reason, last.isoformat())

    def _decide(self, request: Request) -> Request:
        """Decide a waiting request and write what changed; whoever loses a race decides again."""
        for _ in range(RACES):
            try:
                return self._decide_once(request)
            except Conflict:
                request = self._again(request)
                if request.state != "waiting":
                    return request
        raise Conflict(
            f"request {request.id} changes faster than it can be decided",
            hint="decide it again: tidemill retrain run",
        )

    def _decide_once(self, request: Request) -> Request:
        served = self._served_by(request)
        if served is not None:
            return served
        situation = self.situation(request)
        decision = replace(
            decide(request, situation, limits(self._settings)), at=situation.now.isoformat()
        )
        if decision.verb == "WAIT" and not self._news(request, decision):
            return request
        changed = replace(request, state=STATES[decision.verb], served_by="")
        if decision.rule == "lock" and request.trigger in MERGED:
            changed = replace(changed, served_by=situation.active)
        if decision.verb != "RUN":
            return self._requests.save(changed, decision)
        accepted_at = request.accepted_at if request.run_id else decision.at
        changed = replace(changed, accepted_at=accepted_at)
        return self._requests.save(changed, decision, accepted=len(situation.accepted))

    def _served_by(self, request: Request) -> Request | None:
        """Close a request that waited for another one's run, when that run succeeded."""
        server = next((r for r in self._all() if r.id == request.served_by), None)
        if server is None or server.state != "succeeded":
            return None
        text = f"the run of {server.id} served it"
        return self._requests.save(
            replace(request, state="satisfied", finished_at=server.finished_at, outcome=text)
        )

    def _news(self, request: Request, decision: Decision) -> bool:
        """Whether a wait has another reason than before; counts that grow are no news."""
        earlier = self._decisions.decisions(request.id)
        if not earlier or earlier[-1].rule != decision.rule:
            return True
        return decision.rule != "labels" and earlier[-1].reason != decision.reason

    def _again(self, request: Request) -> Request:
        return next(r for r in self._all() if r.id == request.id)

    def _all(self) -> list[Request]:
        return self._requests.all(self._model)

    def _labels_since(self, last: datetime, now: datetime) -> int:
        read = read_labels(self._objects, self._model, last - LATE_LABELS, now)
        if read.frame.is_empty():
            return 0
        at = pl.col("label_at")
        return read.frame.filter((at > last) & (at <= now), pl.col("label").is_not_null()).height


def _replaced(own: Incident | None, found: tuple[Rollout, ...]) -> str:
    """Return what serves in place of the model that an incident is about; empty when that does."""
    if own is None or own.revision in {rollout.serving for rollout in found}:
        return ""
    names = (rollout.replaced(own.revision) for rollout in found)
    return ", ".join(name for name in names if name)


def serving(model: str, windows: Windows, bundles: Bundles) -> Champion | None:
    """Return the model that served the newest judged window; None before there is one.

    Raises IntegrityError when its bundle does not say what it was trained on.
    """
    judged = [v.revision for v in windows.last(model, 30) if v.status == "judged"]
    if not judged:
        return None
    folder = bundles.folder(judged[-1])
    lineage = read_manifest(folder).lineage
    try:
        return Champion(judged[-1], datetime.fromisoformat(lineage["trained_as_of"]))
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"the bundle {folder} has no usable lineage.trained_as_of: {error}",
            hint="release a model that the training pipeline made: tidemill run training",
        ) from error


def limits(settings: RetrainingSettings) -> Limits:
    """Return the governor's limits as the settings have them."""
    return Limits(
        schedule=timedelta(days=settings.schedule_days),
        cooldown=timedelta(days=settings.cooldown_days),
        budget=settings.budget,
        budget_period=timedelta(days=settings.budget_days),
        min_new_labels=settings.min_new_labels,
        attempts=settings.attempts,
    )
