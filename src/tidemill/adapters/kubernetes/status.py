"""The status: what people read of a state, and the state itself.

`checkpoint` is the controller's exact memory as text; all other fields are derived from it in the
same write, for people, `kubectl wait` and dashboards. The controller reads the checkpoint alone.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from tidemill.adapters.kubernetes.fields import Schema
from tidemill.adapters.kubernetes.scale import Scale
from tidemill.domain.evidence import Assessment
from tidemill.domain.paired import PairedAssessment
from tidemill.domain.rollout.model import Condition, Decision, Phase, Revision, State
from tidemill.errors import DataError, Refused

__all__ = ["ModelRolloutStatus", "make_status", "read_decisions", "read_state"]

MAX_DECISIONS = 20
"""The newest ones that the status keeps; all of them are Events and lines of the log."""
MAX_BYTES = 800_000
"""Above this a checkpoint is refused: etcd takes 1.5 MB. The largest that a valid specification can
make, a thousand servers in each arm and twelve metrics of labels, is below."""
STATE, DECISION = TypeAdapter(State), TypeAdapter(Decision)


class RevisionStatus(Schema):
    """A revision that has a part in the rollout."""

    revision: str
    """Its name; the objects that serve it are called `<rollout>-<revision>`."""
    version: str
    """Version of the model."""
    digest: str
    """Digest of its bundle."""


class MetricStatus(Schema):
    """What the evidence says about one metric."""

    name: str
    """Metric."""
    verdict: str
    """harm, pass, undecided, or missing, which is none of them."""
    reason: str
    """Why."""
    ratio: str
    """Canary-to-stable ratios that are not excluded."""
    harm: str
    """Log e-value of the harm test, and the one that decides."""
    passing: Annotated[str, Field(alias="pass")]
    """Log e-value of the pass test, and the one that decides."""
    bad: str
    """Bad requests of stable, of the canary."""
    requests: str
    """Requests of stable, of the canary."""


class PairedStatus(Schema):
    """What the pairs of a shadow step say about one metric."""

    name: str
    """Metric."""
    verdict: str
    """harm, pass, undecided, or missing, which is none of them."""
    rate: str
    """Rates that are not excluded, and the limit."""
    evidence: str
    """Log e-value against the limit, and those that decide on harm and pass."""
    events: str
    """Events, pairs."""


class DecisionStatus(Schema):
    """One entry of the decision log."""

    seq: int
    """Counts from 1."""
    at: str
    """Wall clock."""
    clock: str
    """The project's clock."""
    attempt: int
    """Attempt that it belongs to."""
    action: str
    """What was decided."""
    reason: str
    """Why."""
    phase: str
    """Phase after it."""
    revision: str
    """Canary, or what was deployed."""
    weight: int
    """Canary's weight after it."""
    epoch: int
    """Counts changes of the weight."""
    mirror: int = 0
    """Share of the requests that is mirrored after it, in 1/10000."""


class OutcomeStatus(Schema):
    """How an attempt ended."""

    attempt: int
    """Its number."""
    revision: str
    """Its canary."""
    outcome: str
    """promoted, rolled_back or superseded."""
    reason: str
    """Why."""
    at: str
    """Wall clock."""


class ConditionStatus(Schema):
    """One fact, in the manner of Kubernetes."""

    type: Annotated[str, StringConstraints(max_length=64)]
    """Which fact."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=128)]
    """One word."""
    message: str
    """For people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` changed last."""
    observed_generation: int
    """Specification that it was seen under."""


class ModelRolloutStatus(Schema):
    """What became of the specification."""

    observed_generation: int | None = None
    """Specification that the rest is about."""
    phase: Phase | None = None
    """Where the rollout is."""
    stable: RevisionStatus | None = None
    """What clients rely on."""
    canary: RevisionStatus | None = None
    """What is being tried."""
    attempt: int | None = None
    """Number of the attempt in flight."""
    step: str | None = None
    """Its step."""
    weight: int | None = None
    """Canary's share of the requests, in 1/10000, as intended."""
    mirror: int | None = None
    """Share of the requests that is mirrored to the canary, in 1/10000, as intended."""
    replicas: int | None = None
    """Servers that `selector` chooses."""
    selector: str | None = None
    """Servers that take clients' requests, as a label selector: what an autoscaler looks at."""
    metrics: list[MetricStatus] | None = None
    """Evidence of the attempt in flight."""
    paired: list[PairedStatus] | None = None
    """Evidence of its shadow step."""
    lost: str | None = None
    """Share of the mirrored requests of which no pair was made."""
    decisions: list[DecisionStatus] | None = None
    """The last decisions, oldest first; all are Events and lines of the controller's log."""
    history: list[OutcomeStatus] | None = None
    """The last attempts, newest first."""
    conditions: Annotated[
        list[ConditionStatus] | None,
        Field(
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
        ),
    ] = None
    """Facts; `kubectl wait --for=condition=Promoted`."""
    checkpoint: str | None = None
    """The controller's memory, as JSON text. Do not edit: without it the next specification is
    deployed as if it were the first."""


def read_state(status: dict[str, Any]) -> State:
    """Return the state; the empty one when there is none yet. Raises DataError."""
    checkpoint = status.get("checkpoint", "")
    try:
        return STATE.validate_json(checkpoint) if checkpoint else State()
    except ValidationError as error:
        raise DataError(
            f"status.checkpoint is not what a controller wrote: {error}",
            hint="restore the object from a backup; traffic stays as it is until then",
        ) from error


def read_decisions(status: dict[str, Any]) -> list[Decision]:
    """Return the decisions that the status still holds, oldest first."""
    return [DECISION.validate_python(entry, strict=False) for entry in status.get("decisions", [])]


def make_status(
    before: dict[str, Any],
    state: State,
    decision: Decision | None,
    said: Condition,
    generations: tuple[int, int],
    scale: Scale | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the status that says `state`; `said` is about the specification itself.

    `generations` are that of the specification, and the one that the state's own conditions were
    found under: `kubectl wait` believes no condition of an older one. Raises Refused when the
    status would be too large.
    """
    checkpoint = STATE.dump_json(state).decode()
    if len(checkpoint) > MAX_BYTES:
        raise Refused(
            f"the state has {len(checkpoint)} bytes, more than {MAX_BYTES}",
            hint="fewer metrics in the analysis need less",
        )
    attempt, (newest, judged) = state.attempt, generations
    decisions = before.get("decisions", []) + ([_decision(decision)] if decision else [])
    found = ModelRolloutStatus(
        observed_generation=newest,
        phase=state.phase,
        stable=_revision(state.stable),
        canary=_revision(attempt.canary if attempt else None),
        attempt=attempt.number if attempt else None,
        step=attempt.plan.steps[attempt.step].name if attempt else None,
        weight=state.weight,
        mirror=state.mirror or None,
        replicas=scale.replicas if scale else None,
        selector=scale.selector if scale else None,
        metrics=[_metric(a) for a in attempt.assessments] if attempt else None,
        paired=[_paired(a) for a in attempt.paired] if attempt and attempt.paired else None,
        lost=f"{attempt.evidence.pairing.lost:.1%}" if attempt and attempt.paired else None,
        decisions=[DecisionStatus.model_validate(d) for d in decisions[-MAX_DECISIONS:]],
        history=[
            OutcomeStatus(
                attempt=o.attempt,
                revision=o.revision,
                outcome=o.outcome,
                reason=o.reason,
                at=o.at.isoformat(),
            )
            for o in state.history
        ],
        conditions=[
            *_conditions(before, (said,), newest, now),
            *_conditions(before, state.conditions, judged, now),
        ],
        checkpoint=checkpoint,
    )
    return found.model_dump(mode="json", by_alias=True, exclude_none=True)


def _revision(revision: Revision | None) -> RevisionStatus | None:
    if revision is None:
        return None
    return RevisionStatus(
        revision=revision.revision, version=revision.version, digest=revision.digest
    )


def _metric(found: Assessment) -> MetricStatus:
    return MetricStatus(
        name=found.metric,
        verdict=found.verdict,
        reason=found.reason,
        ratio=f"{found.ratio[0]:.2f} – {found.ratio[1]:.2f}",
        harm=f"{found.log_e_harm:.2f} of {found.harm_at:.2f}",
        passing=f"{found.log_e_pass:.2f} of {found.pass_at:.2f}",
        bad=f"{found.bad[0]:g}, {found.bad[1]:g}",
        requests=f"{found.trials[0]}, {found.trials[1]}",
    )


def _paired(found: PairedAssessment) -> PairedStatus:
    low, high = found.rate
    return PairedStatus(
        name=found.metric,
        verdict=found.verdict,
        rate=f"{low:.2%} – {high:.2%}, limit {found.limit:.2%}",
        evidence=f"{found.log_e:.2f}; harm {found.harm_at:.2f}, pass {found.pass_at:.2f}",
        events=f"{found.events}, {found.pairs}",
    )


def _decision(decision: Decision) -> dict[str, Any]:
    """Return the entry without its evidence, which the log has."""
    bare = replace(decision, evidence=(), paired=())
    entry: dict[str, Any] = DECISION.dump_python(bare, mode="json")
    return {key: value for key, value in entry.items() if key not in ("evidence", "paired")}


def _conditions(
    before: dict[str, Any], found: tuple[Condition, ...], generation: int, now: datetime
) -> list[ConditionStatus]:
    """Stamp conditions; one keeps its time until its status changes."""
    known = {entry["type"]: entry for entry in before.get("conditions", [])}
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = []
    for condition in found:
        old = known.get(condition.type, {})
        same = old.get("status") == condition.status
        conditions.append(
            ConditionStatus(
                type=condition.type,
                status=condition.status,
                reason=condition.reason,
                message=condition.message,
                last_transition_time=old["lastTransitionTime"] if same else moment,
                observed_generation=generation,
            )
        )
    return conditions
