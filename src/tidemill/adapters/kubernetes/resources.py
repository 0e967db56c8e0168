"""The custom resources as people write them; the CRDs are generated from these classes.

Numbers with a fraction are decimal strings: clients and API servers may rewrite a float. Durations
are whole seconds. A field exists only if the core honours it.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from tidemill.domain.evidence import Metric, Tolerance
from tidemill.domain.rollout.model import Action, Command, Plan, Policy, Revision, Step

__all__ = [
    "AnalysisSpec",
    "Attachment",
    "Control",
    "Model",
    "ModelRolloutSpec",
    "ParentRef",
    "Runtime",
    "Traffic",
    "make_command",
    "make_plan",
    "make_revision",
]

MAX_STEPS = 16
MAX_METRICS = 12
NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

Name = Annotated[str, StringConstraints(pattern=NAME, max_length=63)]
LongName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)
]
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", max_length=19)]
Seconds = Annotated[int, Field(ge=0, le=31_622_400)]
Quantity = Annotated[str, StringConstraints(max_length=32)]


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return CEL rules, each with the message of its refusal, as a schema's extension."""
    found = [{"rule": rule, "message": message} for rule, message in pairs]
    return {"x-kubernetes-validations": found}


class Schema(BaseModel):
    """A part of a resource; unknown fields are errors, docstrings become descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Model(Schema):
    """What is to serve all traffic: one version of one model, by digest."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.name == oldSelf.name",
                "the model of a rollout is fixed: make another ModelRollout for another model",
            ),
            (
                "double(self.scoreTails.low) <= double(self.scoreTails.high)",
                "scoreTails.low must not be above scoreTails.high",
            ),
            ("double(self.threshold) <= 1.0", "threshold is a share: at most 1"),
        )
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$", max_length=63)]
    """Name in the registry, and of the model in the server's URLs."""
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]+$", max_length=12)]
    """Version in the registry; answers carry it."""
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
    """Digest of the bundle: what is promoted is what was named."""
    threshold: Number
    """A score at or above it predicts the event; the event's share in training."""
    score_tails: ScoreTails
    """Bounds of the lowest and the highest quarter of its scores."""


class ScoreTails(Schema):
    """Quartiles of the model's scores in its reference profile."""

    low: Number
    """About a quarter of its scores is at most this."""
    high: Number
    """About a quarter of its scores is above this."""


class Reference(Schema):
    """An object of the same namespace."""

    name: LongName
    """Its name."""


class BundleClaim(Schema):
    """Bundles on a volume that is mounted read-only."""

    claim_name: LongName
    """PersistentVolumeClaim that holds them."""
    path: Annotated[str, StringConstraints(pattern=r"^[^/.][^:]*$", max_length=200)] = "bundles"
    """Folder in it; the bundle is `<path>/<first ten hex digits of the digest>`."""


class Resources(Schema):
    """Compute of one server, as in a container."""

    requests: Annotated[dict[str, Quantity], Field(max_length=8)] = {}
    """What the scheduler keeps free for it."""
    limits: Annotated[dict[str, Quantity], Field(max_length=8)] = {}
    """What it may not exceed."""


DIGESTED = Annotated[
    str, StringConstraints(pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$", max_length=400)
]


class Runtime(Schema):
    """What serves the model; all but `replicas` is part of the revision and rolled out with it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.fetchImage) != has(self.bundles)",
                "say where the bundle comes from: either fetchImage or bundles",
            )
        )
    )

    image: DIGESTED
    """Image with `tidemill[serve]`, by digest: a tag may mean another image tomorrow."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Servers per revision; stable and canary both run all of them during an attempt."""
    fetch_image: DIGESTED | None = None
    """Image with `tidemill[registry]`: an init container fetches the bundle from the registry."""
    bundles: BundleClaim | None = None
    """Bundles on a volume, instead of `fetchImage`."""
    resources: Resources = Resources()
    """Compute of one server."""
    config_map: Reference | None = None
    """ConfigMap whose keys become environment variables: the project's settings."""
    secret: Reference | None = None
    """Secret whose keys become environment variables: credentials."""
    service_account_name: LongName | None = None
    """Service account of the servers; no token is mounted."""
    min_ready_seconds: Annotated[int, Field(ge=0, le=600)] = 0
    """A server counts as available after it was ready for this long."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    """Time of a server to answer what it has begun."""


class ParentRef(Schema):
    """A Gateway that the route attaches to."""

    name: LongName
    """Its name."""
    namespace: Name | None = None
    """Its namespace; by default the rollout's own."""
    section_name: LongName | None = None
    """One of its listeners; by default all that allow it."""


class Attachment(Schema):
    """A route that somebody else owns, and the rule in it whose backends the rollout weighs."""

    name: LongName
    """Name of the route."""
    rule: LongName
    """Name of the rule: rules have no other identity that survives an edit."""


class Traffic(Schema):
    """How requests reach the servers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(self.mode == 'Owned') == has(self.parentRefs)",
                "Owned needs parentRefs, Attach has none: the route is somebody else's",
            ),
            (
                "(self.mode == 'Attach') == has(self.routeRef)",
                "Attach needs routeRef, Owned has none: the route is made",
            ),
            ("self.mode == 'Owned' || !has(self.hostnames)", "hostnames are the attached route's"),
            (
                "self.mode == oldSelf.mode && self.kind == oldSelf.kind",
                "mode and kind are fixed: make another ModelRollout",
            ),
            (
                "!has(self.routeRef) || !has(oldSelf.routeRef) || "
                "self.routeRef == oldSelf.routeRef",
                "routeRef is fixed: make another ModelRollout",
            ),
        )
    )

    mode: Literal["Owned", "Attach"] = "Owned"
    """Owned: the rollout makes the route. Attach: it edits its own backends of one rule."""
    kind: Literal["HTTPRoute", "GRPCRoute"] = "HTTPRoute"
    """Kind of the route."""
    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=8)] | None = None
    """Gateways of an owned route."""
    hostnames: Annotated[list[LongName], Field(min_length=1, max_length=16)] | None = None
    """Host names of an owned route; by default the listeners'."""
    route_ref: Attachment | None = None
    """The route and the rule to attach to."""
    settle_seconds: Seconds = 15
    """Evidence of this time after a weight change is dropped: gateways take up routes late."""


class StepSpec(Schema):
    """A weight, and what must hold to leave it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.minSeconds <= self.maxSeconds", "minSeconds must not be above maxSeconds")
        )
    )

    name: Name
    """Its name, unique in the plan."""
    weight: Annotated[int, Field(ge=1, le=9999)]
    """Share of requests that the canary gets, in 1/10000."""
    gate: Annotated[list[Name], Field(max_length=MAX_METRICS)] = []
    """Metrics that must all pass; none: requests and durations alone."""
    min_events: Annotated[int, Field(ge=0, le=1_000_000_000)] = 500
    """Requests that both arms together must have answered in this step."""
    min_seconds: Seconds = 0
    """Shortest stay."""
    max_seconds: Annotated[int, Field(ge=1, le=31_622_400)] = 604_800
    """Undecided after this: `onInconclusive`."""
    approval: bool = False
    """Wait for a command `Approve`."""


class Strategy(Schema):
    """How a revision takes over."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.steps.map(s, s.weight).isSorted() && "
                "self.steps.all(a, self.steps.exists_one(b, b.weight == a.weight))",
                "weights must increase from step to step",
            ),
            (
                "self.steps.all(a, self.steps.exists_one(b, b.name == a.name))",
                "names of steps must be unique",
            ),
        )
    )

    steps: Annotated[list[StepSpec], Field(min_length=1, max_length=MAX_STEPS)]
    """The steps; after the last one the canary is promoted."""
    on_harm: Literal["Rollback", "Freeze"] = "Rollback"
    """What a harm verdict does."""
    on_inconclusive: Literal["Pause", "Rollback", "Continue"] = "Pause"
    """What an undecided gate does when its time is over."""
    on_missing_evidence: Literal["Pause", "Rollback"] = "Pause"
    """What missing evidence does; it is never read as health."""
    on_stable_unhealthy: Literal["Freeze", "Proceed"] = "Freeze"
    """Stable itself is above a maxRate: wait, or let a canary that may be the cure go on."""
    on_new_revision: Literal["Supersede", "QueueLatest"] = "Supersede"
    """A newer revision during an attempt: replace it, or wait for its end."""
    missing_after_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    """How long evidence may be missing."""
    max_gap_percent: Annotated[int, Field(ge=0, le=99)] = 5
    """Share of a step whose evidence may be lost before nothing passes."""
    progress_deadline_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """The canary's servers must be available, and a route in force, within this time."""
    scale_down_delay_seconds: Seconds = 600
    """The old servers live this long after promotion, for an instant way back."""
    interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Time between two looks at the evidence."""


class MetricSpec(Schema):
    """One event whose rate is compared between canary and stable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("double(self.harmRatio) >= 1.0", "harmRatio must be at least 1"),
            (
                "double(self.passRatio) > double(self.harmRatio)",
                "passRatio must be above harmRatio: between them neither is shown",
            ),
            (
                "!has(self.maxRate) || (double(self.maxRate) > 0.0 && double(self.maxRate) < 1.0)",
                "maxRate must lie between 0 and 1",
            ),
        )
    )

    name: Name
    """Its name, referred to by gates."""
    event: Literal["error", "slow", "invalid", "low", "high", "wrong"]
    """What is counted per request; `wrong` once labels have matured (docs: rollout)."""
    harm_ratio: Number = "1.2"
    """Harm is a canary-to-stable ratio of rates above this."""
    pass_ratio: Number = "1.5"  # noqa: S105 - a ratio
    """Pass is a ratio below this, shown at level beta."""
    max_rate: Number | None = None
    """Absolute guard: a canary above this rate is harmful unless stable is above it, too."""
    alpha_share: Annotated[int, Field(ge=1, le=100)] = 20
    """This metric's percent of alpha."""


class AnalysisSpec(Schema):
    """Error rates of the automatic decisions, and the metrics they rest on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metrics.all(a, self.metrics.exists_one(b, b.name == a.name))",
                "names of metrics must be unique",
            ),
            (
                "self.metrics.map(m, m.alphaShare).sum() <= 100",
                "alphaShare must add up to at most 100 percent",
            ),
            (
                "[self.alpha, self.beta].all(n, double(n) > 0.0 && double(n) < 0.5)",
                "alpha and beta must lie between 0 and 0.5",
            ),
            (
                "double(self.srmAlpha) > 0.0 && double(self.srmAlpha) < 0.1",
                "srmAlpha must lie between 0 and 0.1",
            ),
            (
                "has(self.maturationSeconds) || !self.metrics.exists(m, m.event == 'wrong')",
                "a metric of the event wrong needs maturationSeconds: how long labels take",
            ),
        )
    )

    alpha: Number = "0.01"
    """Chance that a harmless canary is ever rolled back, over the whole attempt."""
    beta: Number = "0.05"
    """Chance, per gated metric, that a canary at the margin passes."""
    srm_alpha: Number = "0.0001"
    """Level of the sample-ratio test."""
    min_bad_events: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Bad canary events needed before harm acts."""
    min_coverage_percent: Annotated[int, Field(ge=0, le=100)] = 80
    """Share of each arm's requests that must have a matured label."""
    maturation_seconds: Seconds | None = None
    """How long a label may take to arrive after its request."""
    metrics: Annotated[list[MetricSpec], Field(min_length=1, max_length=MAX_METRICS)]
    """The metrics that are watched."""


class Analysis(Schema):
    """Where the analysis is written: here, or in an AnalysisPolicy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.policyRef) != has(self.inline)", "give either policyRef or inline")
        )
    )

    policy_ref: Reference | None = None
    """AnalysisPolicy of the same namespace; an attempt keeps what it said when it began."""
    inline: AnalysisSpec | None = None
    """The analysis itself."""


class Control(Schema):
    """What a person asks for, once, about one revision."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self == oldSelf || self.id != oldSelf.id",
                "another command needs another id: each is carried out once",
            ),
            ("!has(self.step) || self.action == 'Approve'", "only Approve is about a step"),
        )
    )

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """Any text that was not used before."""
    action: Literal["Approve", "Resume", "Promote", "Abort", "Retry"]
    """What to do."""
    for_revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{10}$", max_length=10)]
    """Revision that it is about; if another one is in flight nothing is done."""
    step: Name | None = None
    """Step that is approved; by default the current one."""


class ModelRolloutSpec(Schema):
    """A model version that is to serve all traffic, and how it gets there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.analysis.inline) || self.strategy.steps.all(s, s.gate.all(g, "
                "self.analysis.inline.metrics.exists(m, m.name == g)))",
                "a gate names a metric that the analysis does not have",
            ),
            (
                "!has(self.analysis.inline) || !has(self.analysis.inline.maturationSeconds) || "
                "self.strategy.steps.all(s, s.maxSeconds > self.analysis.inline.maturationSeconds "
                "|| !s.gate.exists(g, self.analysis.inline.metrics.exists(m, m.name == g && "
                "m.event == 'wrong')))",
                "a gate on wrong needs a step with maxSeconds above maturationSeconds",
            ),
        )
    )

    model: Model
    """What is to serve."""
    runtime: Runtime
    """What serves it."""
    traffic: Traffic
    """How requests reach it."""
    strategy: Strategy
    """How it takes over."""
    analysis: Analysis
    """What decides."""
    paused: bool = False
    """Freeze the weight; the protection goes on."""
    control: Control | None = None
    """A person's last command."""


def make_revision(spec: ModelRolloutSpec) -> Revision:
    """Return the revision that is wanted: the bundle together with what serves it."""
    model = spec.model
    runtime = spec.runtime.model_dump(mode="json", by_alias=True, exclude_none=True)
    runtime.pop("replicas")
    identity = json.dumps([model.digest, model.version, runtime], sort_keys=True)
    return Revision(
        revision=hashlib.sha256(identity.encode()).hexdigest()[:10],
        model=model.name,
        version=model.version,
        digest=model.digest,
        bundle=_bundle(model, spec.runtime),
        threshold=float(model.threshold),
        score_tails=(float(model.score_tails.low), float(model.score_tails.high)),
        runtime=runtime,
    )


def _bundle(model: Model, runtime: Runtime) -> str:
    """Return where a server's pod finds its bundle."""
    claim = runtime.bundles
    return f"/models/{claim.path}/{model.digest[7:17]}" if claim else "/models/bundle"


def make_plan(spec: ModelRolloutSpec, analysis: AnalysisSpec) -> Plan:
    """Return how the revision takes over."""
    strategy, alpha = spec.strategy, Decimal(analysis.alpha)
    return Plan(
        steps=tuple(_step(step) for step in strategy.steps),
        metrics=tuple(_metric(metric, alpha) for metric in analysis.metrics),
        tolerance=Tolerance(
            beta=float(analysis.beta),
            srm_alpha=float(analysis.srm_alpha),
            min_bad_events=analysis.min_bad_events,
            min_coverage=analysis.min_coverage_percent / 100,
        ),
        policy=Policy(
            on_harm=_lower(strategy.on_harm),
            on_inconclusive=_lower(strategy.on_inconclusive),
            on_missing_evidence=_lower(strategy.on_missing_evidence),
            on_stable_unhealthy=_lower(strategy.on_stable_unhealthy),
            on_new_revision="queue" if strategy.on_new_revision == "QueueLatest" else "supersede",
        ),
        maturation_seconds=float(analysis.maturation_seconds or 0),
        settle_seconds=float(spec.traffic.settle_seconds),
        missing_after_seconds=float(strategy.missing_after_seconds),
        max_gap=strategy.max_gap_percent / 100,
        progress_deadline_seconds=float(strategy.progress_deadline_seconds),
        scale_down_seconds=float(strategy.scale_down_delay_seconds),
        interval_seconds=float(strategy.interval_seconds),
    )


def make_command(control: Control | None) -> Command | None:
    """Return the command that was given."""
    if control is None:
        return None
    action: Action = _lower(control.action)
    return Command(control.id, action, control.for_revision, control.step or "")


def _step(step: StepSpec) -> Step:
    return Step(
        name=step.name,
        weight=step.weight,
        gate=tuple(step.gate),
        min_events=step.min_events,
        min_seconds=float(step.min_seconds),
        max_seconds=float(step.max_seconds),
        approval=step.approval,
    )


def _metric(metric: MetricSpec, alpha: Decimal) -> Metric:
    return Metric(
        name=metric.name,
        event=metric.event,
        harm_ratio=float(metric.harm_ratio),
        pass_ratio=float(metric.pass_ratio),
        max_rate=None if metric.max_rate is None else float(metric.max_rate),
        alpha=float(alpha * metric.alpha_share / 100),
    )


def _lower(word: str) -> Any:
    return word.lower()
