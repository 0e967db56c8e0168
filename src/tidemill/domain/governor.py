"""The governor: whether a retraining may run, and why not.

    RUN       start the training pipeline
    WAIT      not now; the request is decided again when something changed
    REFUSE    never for this request
    ESCALATE  the machine has done what it may; a person decides

Scheduled, drift-caused, manual and CI requests share this one table of rules, in this order:

    rule       schedule   concept_drift   ci         manual     other causes
    cause      –          –               –          –          REFUSE
    attempts   ESCALATE   ESCALATE        ESCALATE   ESCALATE
    resolved   –          REFUSE          –          –
    lock       WAIT       WAIT            WAIT       WAIT
    rollout    WAIT       WAIT            WAIT       –
    replaced   –          WAIT            –          –
    fault      WAIT       WAIT            WAIT       WAIT
    excluded   –          WAIT            –          –
    schedule   WAIT       –               –          –
    cooldown   –          WAIT            –          –
    labels     WAIT       WAIT            –          –
    budget     ESCALATE   ESCALATE        ESCALATE   –

`rollout`: while a canary is in flight, the champion that a challenger is compared with may be
replaced within hours, and labels are those of two arms. A person may know better. `replaced`: after
a promotion a drift is resolved when a window of the new model has been judged; until then it would
train once more for a model that no longer serves, unless that one comes back.

A run that began and lost its process is not held by these two, nor by resolved, schedule, cooldown
and labels: they would look at what it made itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tidemill.domain.verdicts import Cause

__all__ = [
    "HELD",
    "TRIGGERS",
    "Decision",
    "Limits",
    "Request",
    "RequestState",
    "Situation",
    "Trigger",
    "Verb",
    "decide",
    "request_id",
]

Verb = Literal["RUN", "WAIT", "REFUSE", "ESCALATE"]
Trigger = Cause | Literal["schedule", "manual", "ci"]
RequestState = Literal[
    "waiting", "pending", "running", "succeeded", "rejected", "satisfied", "refused", "escalated"
]
"""`pending`: accepted, not yet started. `rejected`: trained, but a gate said no. `satisfied`: the
run of another request served it too."""

TRIGGERS: tuple[Trigger, ...] = ("schedule", "concept_drift", "ci", "manual")
"""What may cause a retraining."""
HELD: tuple[Trigger, ...] = ("schedule", "concept_drift", "ci")
"""What waits for the end of a rollout."""
REASONS: Mapping[Trigger, str] = {
    "data_quality": "the data is faulty; a retrained model would learn the fault",
    "skew": "serving and training disagree; retraining does not mend that",
    "code_bug": "the server does not run the registered model; deploy it again",
    "covariate_shift": "features moved, labels do not show harm; moving features are no reason",
    "none": "nothing was found",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The governor's limits."""

    schedule: timedelta
    cooldown: timedelta
    budget: int
    budget_period: timedelta
    min_new_labels: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Request:
    """A wish to retrain, and what became of it. Instants are ISO 8601, UTC."""

    id: str
    """`req-` and eight hex digits of the dedupe key: the same wish twice is one request."""
    model: str
    revision: str
    """The revision that served when it was made."""
    trigger: Trigger
    actor: str
    reason: str
    requested_at: str
    correlation_id: str
    """The incident's id, or the request's own."""
    state: RequestState = "waiting"
    attempts: int = 0
    """Runs that were started for it."""
    accepted_at: str = ""
    """When the governor last said RUN."""
    finished_at: str = ""
    run_id: str = ""
    """The run to continue, or that is in progress; empty when the last one failed."""
    owner: str = ""
    """Process that runs it, `host:pid`."""
    served_by: str = ""
    """The request whose run serves this one too, while or after it runs."""
    outcome: str = ""
    edits: int = 0
    """Number of writes, counted by the store; who saw fewer may not write."""

    @property
    def active(self) -> bool:
        """Whether it holds the model's lock."""
        return self.state in ("pending", "running")


@dataclass(frozen=True, slots=True)
class Situation:
    """What the governor looks at."""

    now: datetime
    last_training: datetime | None
    """When the newest training ended, whatever became of its model; None: never."""
    new_labels: int
    """Matured labels since then."""
    accepted: tuple[datetime, ...] = ()
    """When each run was accepted so far."""
    active: str = ""
    """The request that is pending or running."""
    rollouts: tuple[str, ...] = ()
    """Rollouts in flight, each with version and phase, or why that cannot be told."""
    replaced: str = ""
    """The revision that serves in place of the one that the request's incident is about."""
    faults: tuple[str, ...] = ()
    """Unresolved incidents of data, skew or code."""
    resolved: bool = False
    """Whether the request's own incident is over."""
    excluded: bool = True
    """Whether monitoring could exclude every fault when it named the request's cause."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer to one request."""

    verb: Verb
    rule: str
    reason: str
    until: datetime | None = None
    """When waiting may end, if time alone ends it."""
    at: str = field(default="", compare=False)


def request_id(model: str, revision: str, trigger: Trigger, key: str) -> str:
    """Return the identity of a request: model, champion, cause, and incident, day or commit."""
    text = "\n".join((model, revision, trigger, key))
    return f"req-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def decide(request: Request, situation: Situation, limits: Limits) -> Decision:
    """Apply the rules in the order of the module's table; the first that objects decides.

    A request with a run continues that one: whether a new one is wanted is not asked again.
    """
    for rule in CONTINUED if request.run_id else RULES:
        decision = rule(request, situation, limits)
        if decision:
            return decision
    return Decision("RUN", "all", f"{request.trigger}: {request.reason}")


def _cause(request: Request, _now: Situation, _limits: Limits) -> Decision | None:
    if request.trigger in TRIGGERS:
        return None
    return Decision("REFUSE", "cause", f"{request.trigger}: {REASONS[request.trigger]}")


def _attempts(request: Request, _now: Situation, limits: Limits) -> Decision | None:
    if request.attempts < limits.attempts:
        return None
    reason = f"{request.attempts} runs failed, the last one: {request.outcome}"
    return Decision("ESCALATE", "attempts", reason)


def _resolved(request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if request.trigger == "concept_drift" and now.resolved:
        return Decision("REFUSE", "resolved", f"incident {request.correlation_id} is resolved")
    return None


def _lock(_request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if not now.active:
        return None
    return Decision("WAIT", "lock", f"the run of {now.active} is in progress")


def _rollout(request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if request.trigger not in HELD or not now.rollouts:
        return None
    return Decision("WAIT", "rollout", f"{'; '.join(now.rollouts)}: tidemill rollout status")


def _replaced(request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if request.trigger != "concept_drift" or not now.replaced:
        return None
    reason = f"{request.correlation_id} is about a model that no longer serves, {now.replaced} does"
    return Decision("WAIT", "replaced", reason)


def _fault(_request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if not now.faults:
        return None
    reason = f"{', '.join(now.faults)} unresolved: a retrained model could learn the fault"
    return Decision("WAIT", "fault", reason)


def _excluded(request: Request, now: Situation, _limits: Limits) -> Decision | None:
    if request.trigger == "concept_drift" and not now.excluded:
        reason = "replay, skew or quality could not be judged: a fault is not excluded"
        return Decision("WAIT", "excluded", reason)
    return None


def _time(request: Request, now: Situation, limits: Limits) -> Decision | None:
    rule = {"schedule": limits.schedule, "concept_drift": limits.cooldown}.get(request.trigger)
    if rule is None or now.last_training is None or now.now >= now.last_training + rule:
        return None
    name = "schedule" if request.trigger == "schedule" else "cooldown"
    until = now.last_training + rule
    reason = (
        f"the last training was at {now.last_training:%Y-%m-%d %H:%M},"
        f" not again before {until:%Y-%m-%d %H:%M} UTC"
    )
    return Decision("WAIT", name, reason, until)


def _labels(request: Request, now: Situation, limits: Limits) -> Decision | None:
    if request.trigger not in ("schedule", "concept_drift"):
        return None
    if now.new_labels >= limits.min_new_labels:
        return None
    reason = (
        f"{now.new_labels:,} of {limits.min_new_labels:,} matured labels since the last training"
    )
    return Decision("WAIT", "labels", reason)


def _budget(request: Request, now: Situation, limits: Limits) -> Decision | None:
    if request.trigger == "manual":
        return None
    recent = [at for at in now.accepted if at > now.now - limits.budget_period]
    if len(recent) < limits.budget:
        return None
    days = limits.budget_period / timedelta(days=1)
    reason = (
        f"{len(recent)} retrainings in {days:g} days did not help, the budget is {limits.budget}"
    )
    return Decision("ESCALATE", "budget", reason)


RULES = (
    _cause,
    _attempts,
    _resolved,
    _lock,
    _rollout,
    _replaced,
    _fault,
    _excluded,
    _time,
    _labels,
    _budget,
)
CONTINUED = (_cause, _attempts, _lock, _fault, _excluded, _budget)
"""Of a run that began, the others would look at what it made itself: its model is in rollout, has
replaced the one that drifted, or is the last training."""
