"""The rollout's nouns: plan, specification, state, what should be.

A specification belongs to people, the state to the controller; both are plain values that survive
JSON. What should run and where traffic should go is a function of the state alone (`intent`), so a
controller that dies anywhere continues by making the world equal to the state it finds.

Two axes of time. Waits for machines are wall clock; durations of steps and the maturation of labels
are the project's clock, which a replay may move faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from tidemill.domain.evidence import TOTAL, Assessment, Metric, Tolerance
from tidemill.domain.paired import PairedAssessment, PairedRate
from tidemill.domain.rollout.freeze import Freeze, frozen_until
from tidemill.domain.rollout.readings import Evidence, Reading

__all__ = [
    "Attempt",
    "Backend",
    "Command",
    "Condition",
    "Decided",
    "Decision",
    "Ending",
    "Intent",
    "Now",
    "Outcome",
    "Phase",
    "Plan",
    "Policy",
    "Release",
    "Revision",
    "Route",
    "Snapshot",
    "Spec",
    "State",
    "Step",
    "Workload",
    "intent",
    "shadow_of",
]

Phase = Literal[
    "empty", "initializing", "stable", "preparing", "progressing", "paused", "promoting",
    "finalizing", "rolling_back",
]  # fmt: skip
Ending = Literal["promoted", "rolled_back", "superseded"]
Decided = Literal[
    "approve", "begin", "break_glass", "complete", "deploy", "finalize", "hold", "ignore",
    "initialize", "pause", "promote", "resume", "rollback", "weight",
]  # fmt: skip
"""What a decision does, in the log and in the metrics."""
Action = Literal["approve", "skip", "resume", "promote", "abort", "retry", "break_glass"]


@dataclass(frozen=True, slots=True)
class Revision:
    """The promotion tuple: model, feature service, threshold and reference profile as one bundle.

    They switch together because they are the files of one digest.
    """

    revision: str
    """First ten hex digits of the bundle's digest; on Kubernetes of the digest and `runtime`."""
    model: str
    version: str
    digest: str
    bundle: str
    """Where the bundle lies: a folder here, a URI on Kubernetes."""
    threshold: float
    """A score at or above it predicts the event; the event's share in training."""
    score_tails: tuple[float, float]
    """About a quarter of its scores is at most the first, a quarter above the second."""
    runtime: Mapping[str, Any] = field(default_factory=dict)
    """What serves it on Kubernetes, image and resources; empty on one machine."""

    @property
    def reported(self) -> str:
        """What its servers call themselves: the first ten hex digits of the bundle's digest."""
        return self.digest.removeprefix("sha256:")[:10]


@dataclass(frozen=True, slots=True)
class Step:
    """A weight and what must hold to leave it; see `settings.rollout.RolloutStep`."""

    name: str
    weight: int
    gate: tuple[str, ...]
    min_events: int
    min_seconds: float
    max_seconds: float
    approval: bool
    mirror: int = 0
    """Not 0: a shadow step, this share of the requests is mirrored to the canary, in 1/10000."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done in the cases that are no verdict; see `settings.rollout.RolloutSettings`."""

    on_harm: Literal["rollback", "freeze"]
    on_inconclusive: Literal["pause", "rollback", "continue"]
    on_missing_evidence: Literal["pause", "rollback"]
    on_stable_unhealthy: Literal["freeze", "proceed"]
    on_new_revision: Literal["supersede", "queue"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a revision takes over; an attempt keeps the plan that it began with."""

    steps: tuple[Step, ...]
    metrics: tuple[Metric, ...]
    tolerance: Tolerance
    policy: Policy
    maturation_seconds: float
    settle_seconds: float
    missing_after_seconds: float
    max_gap: float
    """Share of a step whose evidence may be lost before nothing passes any more."""
    progress_deadline_seconds: float
    scale_down_seconds: float
    interval_seconds: float
    freeze: tuple[Freeze, ...] = ()
    """When no canary gets more traffic by itself. Unlike the rest this binds an attempt in flight
    as soon as it is ordered: a calendar does not wait for attempts to end."""
    paired: tuple[PairedRate, ...] = ()
    """What is compared pair by pair in a shadow step."""
    max_lost: float = 0.05
    """Share of the mirrored requests that may be lost before no shadow step is passed any more."""
    rollback_window: int = 0
    """One of so many revisions that served last comes back without steps."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a person asked for, once, about one revision."""

    id: str
    action: Action
    revision: str
    step: str = ""
    """The step that is approved or skipped."""
    reason: str = ""
    """Why the glass is broken; it goes on the ledger."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What people want; every write raises the generation."""

    generation: int
    desired: Revision
    plan: Plan
    paused: bool = False
    command: Command | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to bring one revision to all traffic."""

    number: int
    canary: Revision
    plan: Plan
    generation: int
    started_at: datetime
    looked: Now | None = None
    """When it was last looked at: time that no look saw pass counts for no wait."""
    step: int = 0
    entered_at: datetime | None = None
    """Project's clock when the step's weight took effect."""
    entered_wall: datetime | None = None
    paused_seconds: float = 0.0
    paused_since: datetime | None = None
    pause: str = ""
    approved: bool = False
    holds: int = 0
    """How often its servers were lost while they carried traffic."""
    override: bool = False
    """A person promoted it; the beta guarantee does not apply."""
    unproven: tuple[str, ...] = ()
    """Steps that it left without a passed gate: skipped, or undecided when their time was over."""
    back: bool = False
    """It served before, within the rollback window: the steps are skipped."""
    thawed_until: datetime | None = None
    """Wall clock: the freeze windows that a person broke bind nothing until they end."""
    edited: tuple[str, ...] = ()
    """What of the specification's plan differs from this one's, as far as it was said."""
    failure: str = ""
    """Why it is being rolled back."""
    evidence: Evidence = field(default_factory=Evidence)
    assessments: tuple[Assessment, ...] = ()
    paired: tuple[PairedAssessment, ...] = ()

    @property
    def verdicts(self) -> tuple[Assessment | PairedAssessment, ...]:
        """What is known of every metric."""
        return (*self.assessments, *self.paired)

    @property
    def harmed(self) -> bool:
        """Whether harm is known in any metric."""
        return any(found.verdict == "harm" for found in self.verdicts)

    @property
    def id(self) -> str:
        """Name of the attempt in ledgers."""
        return f"{self.canary.model}-{self.number}"


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry of the decision log: written before anything is done."""

    seq: int
    at: datetime
    """Wall clock."""
    clock: datetime
    """Project's clock."""
    attempt: int
    action: str
    reason: str
    phase: Phase
    revision: str
    weight: int
    epoch: int
    evidence: tuple[Assessment, ...] = ()
    mirror: int = 0
    paired: tuple[PairedAssessment, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """What registry and ledger must be told: `champion` serves all traffic from now on."""

    kind: Literal["promoted", "rolled_back", "unfrozen"]
    """`unfrozen`: a person lets the subject go on inside a freeze window; nothing is released."""
    champion: Revision
    subject: Revision
    """The revision that was promoted or refused."""
    attempt: str
    reason: str
    evidence: tuple[Assessment, ...] = ()
    order: str = ""
    """Id of the command that it came from: one attempt may break several windows."""
    paired: tuple[PairedAssessment, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    attempt: int
    revision: str
    outcome: Ending
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """One observable fact about the rollout, in the manner of Kubernetes."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All that the controller knows; the only thing it relies on after a crash."""

    phase: Phase = "empty"
    stable: Revision | None = None
    previous: Revision | None = None
    """Kept at full scale after a promotion, for the way back."""
    attempt: Attempt | None = None
    weight: int = 0
    epoch: int = 0
    since: datetime | None = None
    """Wall clock when the phase began."""
    applied_at: datetime | None = None
    """Wall clock when the data plane was first seen with this epoch's route."""
    astray_since: datetime | None = None
    """Wall clock when another route, or none, was first seen in force where ours had been."""
    seq: int = 0
    attempts: int = 0
    handled: str = ""
    """Id of the last command."""
    closed: str = ""
    """Revision whose last attempt failed: it is not tried again unless someone says retry."""
    served: tuple[str, ...] = ()
    """Revisions that were stable before this one, newest first."""
    reported: tuple[str, ...] = ()
    """What the servers of those called themselves, also of one that failed to come back."""
    releases: tuple[Release, ...] = ()
    """Not yet delivered to registry and ledger."""
    history: tuple[Outcome, ...] = ()
    conditions: tuple[Condition, ...] = ()
    mirror: int = 0
    """Share of the requests that is mirrored to the canary, in 1/10000; its weight is 0 then."""

    @property
    def serving(self) -> Revision | None:
        """The revision that has all requests: nothing is in flight, and its route is in force."""
        return self.stable if self.phase == "stable" and self.applied_at else None

    @property
    def load(self) -> int:
        """Share of the requests that the canary's servers must carry, in 1/10000."""
        return max(self.weight, self.mirror)

    @property
    def arms(self) -> tuple[Revision, Revision] | None:
        """The revisions that are compared: stable (after promotion the previous one) and canary."""
        old = self.previous if self.phase == "finalizing" else self.stable
        return (old, self.attempt.canary) if old and self.attempt else None


@dataclass(frozen=True, slots=True)
class Workload:
    """What is seen of a revision's servers."""

    ready: int
    desired: int
    address: str
    """Where the data plane reaches it: `host:port` here, a Service on Kubernetes."""
    detail: str = ""
    servers: Mapping[str, str] = field(default_factory=dict)
    """Where each server behind `address` is reached itself, by name; empty: it is one server."""
    shadows: Mapping[str, str] = field(default_factory=dict)
    """Where each server takes mirrored requests and tells what it answered, by name."""
    grown_from: int = 0
    """Not 0: it had so many servers when more were asked for, which are not all ready yet."""
    refused: bool = False
    """A server ended because a rule said no, as a bundle's that is not what was signed; `detail`
    has it. It will say so again."""

    def carries(self, weight: int) -> bool:
        """Whether enough servers are ready for `weight`; those being added are not lost ones."""
        counted = self.grown_from or self.desired
        return self.ready >= max(1, math.ceil(counted * weight / TOTAL))


@dataclass(frozen=True, slots=True)
class Backend:
    """One destination of the route; weight 0 is known to the data plane but not in the route."""

    revision: str
    weight: int


@dataclass(frozen=True, slots=True)
class Route:
    """How requests are split."""

    backends: tuple[Backend, ...] = ()
    problem: str = field(default="", compare=False)
    """Why the data plane does not have in force what it was asked for, if it says so."""
    mirror: Backend | None = None
    """Where copies of the requests go, with their share in 1/10000; the answers are dropped."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What should be, derived from the state."""

    workloads: tuple[Revision, ...]
    route: Route


@dataclass(frozen=True, slots=True)
class Now:
    """The instant on both axes, UTC."""

    wall: datetime
    clock: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision may depend on. None: could not be observed."""

    spec: Spec
    state: State
    workloads: Mapping[str, Workload] | None
    route: Route | None
    reading: Reading
    refused: str = ""
    """Why registry or ledger refused the pending release; empty when they did not."""
    delivered: int = 0
    """How many of the pending releases arrived."""

    @property
    def attempt(self) -> Attempt:
        """The attempt in flight; asked for only in phases that have one."""
        assert self.state.attempt is not None
        return self.state.attempt

    @property
    def stable(self) -> Revision:
        """The stable revision; asked for only in phases that have one."""
        assert self.state.stable is not None
        return self.state.stable

    def frozen_until(self, now: Now) -> datetime | None:
        """Return when the windows end in which the attempt in flight may not advance by itself.

        The way back to what served before is never frozen.
        """
        thawed = self.attempt.thawed_until
        if self.attempt.back or (thawed and now.wall < thawed):
            return None
        return frozen_until(self.spec.plan.freeze, now.wall)

    @property
    def applied(self) -> bool:
        """Whether the data plane shows the route that the state asks for."""
        return self.route == intent(self.state).route

    def ready(self, revision: Revision, weight: int) -> bool:
        """Whether `revision` is known to carry `weight`."""
        seen = (self.workloads or {}).get(revision.revision)
        return seen is not None and seen.carries(weight)


def intent(state: State) -> Intent:
    """Return what should run and how traffic should be split, as the state says it.

    Stable and the revision to fall back to always run at full scale; the canary's servers run until
    the route was seen without them.
    """
    canary = state.attempt.canary if state.attempt else None
    finalizing = state.phase == "finalizing"
    running = [state.previous if finalizing else None, state.stable]
    running.append(None if finalizing else canary)
    workloads = tuple(revision for revision in running if revision is not None)
    shares = {r.revision: 0 for r in workloads}
    if state.stable and state.phase != "initializing":
        shares[state.stable.revision] = TOTAL
    if canary and not finalizing:
        if state.stable:
            shares[state.stable.revision] = TOTAL - state.weight
        shares[canary.revision] = state.weight
    mirror = Backend(canary.revision, state.mirror) if canary and state.mirror else None
    backends = tuple(Backend(r, shares[r]) for r in sorted(shares))
    return Intent(workloads, Route(backends, mirror=mirror))


def shadow_of(revision: str) -> str:
    """Return the name under which a router is told where mirrored requests of a revision go."""
    return f"shadow-{revision}"
