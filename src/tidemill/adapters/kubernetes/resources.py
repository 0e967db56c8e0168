"""The custom resources as people write them; the CRDs are generated from these classes.

A field exists only if the core honours it.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, StringConstraints

from tidemill.adapters.kubernetes.analysis import (
    Analysis,
    AnalysisSpec,
    make_metric,
    make_paired,
    make_tolerance,
)
from tidemill.adapters.kubernetes.fields import Name, Schema, rules
from tidemill.adapters.kubernetes.runtime import Model, Runtime
from tidemill.adapters.kubernetes.strategy import Strategy, make_policy, make_step
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.domain.rollout.freeze import make_freeze
from tidemill.domain.rollout.model import Action, Command, Plan, Revision

__all__ = [
    "Control",
    "ModelRolloutSpec",
    "make_command",
    "make_control",
    "make_plan",
    "make_revision",
]

WORDS: dict[Action, str] = {one: one.title().replace("_", "") for one in get_args(Action)}
"""The actions as Kubernetes spells constants: `BreakGlass`."""
ACTIONS = {word: action for action, word in WORDS.items()}


class Control(Schema):
    """What a person asks for, once, about one revision."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self == oldSelf || self.id != oldSelf.id",
                "another command needs another id: each is carried out once",
            ),
            (
                "!has(self.step) || self.action in ['Approve', 'Skip']",
                "only Approve and Skip are about a step",
            ),
            (
                "has(self.reason) == (self.action == 'BreakGlass')",
                "BreakGlass needs a reason, no other action has one",
            ),
        )
    )

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """Any text that was not used before."""
    action: Literal[*WORDS.values()]  # type: ignore[valid-type] # one list of actions, the core's
    """What to do."""
    for_revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{10}$", max_length=10)]
    """Revision that it is about; if another one is in flight nothing is done."""
    step: Name | None = None
    """Step that is approved or skipped; by default the current one."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    """Why the glass of a freeze window is broken, and by whom; it goes on the ledger."""


class ModelRolloutSpec(Schema):
    """A model version that is to serve all traffic, and how it gets there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.analysis.inline) || self.strategy.steps.all(s, s.gate.all(g, "
                "has(s.shadow) ? self.analysis.inline.paired.exists(m, m.name == g) : "
                "self.analysis.inline.metrics.exists(m, m.name == g)))",
                "a gate names a metric that the analysis does not have: of a shadow step one of "
                "paired, of others one of metrics",
            ),
            (
                "self.traffic.kind == 'HTTPRoute' || !self.strategy.steps.exists(s, has(s.shadow))",
                "a shadow step needs an HTTPRoute: calls over gRPC are not compared",
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
    """Return the revision that is wanted: the bundle together with what serves it.

    What is as the schema has it by default is left out: a field that a newer schema adds makes no
    new revision of what is deployed.
    """
    model = spec.model
    runtime = spec.runtime.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"replicas"}
    )
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


def make_plan(strategy: Strategy, analysis: AnalysisSpec, settle_seconds: int) -> Plan:
    """Return how a revision takes over."""
    alpha = Decimal(analysis.alpha)
    return Plan(
        steps=tuple(make_step(step) for step in strategy.steps),
        metrics=tuple(make_metric(metric, alpha) for metric in analysis.metrics),
        tolerance=make_tolerance(analysis),
        policy=make_policy(strategy),
        maturation_seconds=float(analysis.maturation_seconds or 0),
        settle_seconds=float(settle_seconds),
        missing_after_seconds=float(strategy.missing_after_seconds),
        max_gap=strategy.max_gap_percent / 100,
        progress_deadline_seconds=float(strategy.progress_deadline_seconds),
        scale_down_seconds=float(strategy.scale_down_delay_seconds),
        interval_seconds=float(strategy.interval_seconds),
        rollback_window=strategy.rollback_window.revisions,
        freeze=tuple(
            make_freeze(window.days, window.start, window.end, window.time_zone)
            for window in strategy.freeze
        ),
        paired=tuple(make_paired(metric, alpha) for metric in analysis.paired),
        max_lost=analysis.max_lost_percent / 100,
    )


def make_command(control: Control | None) -> Command | None:
    """Return the command that was given."""
    if control is None:
        return None
    return Command(
        control.id,
        ACTIONS[control.action],
        control.for_revision,
        control.step or "",
        control.reason or "",
    )


def make_control(command: Command) -> dict[str, str]:
    """Return `spec.control` that gives a command."""
    made = {"id": command.id, "action": WORDS[command.action], "forRevision": command.revision}
    optional = {"step": command.step, "reason": command.reason}
    return made | {name: text for name, text in optional.items() if text}
