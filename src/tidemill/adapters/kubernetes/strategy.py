"""How a revision takes over: its steps, and what is done in the cases that are no verdict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from tidemill.adapters.kubernetes.analysis import MAX_METRICS
from tidemill.adapters.kubernetes.fields import Name, Schema, Seconds, rules
from tidemill.domain.rollout.model import Policy, Step
from tidemill.settings.rollout import known_zone

__all__ = ["Strategy", "make_policy", "make_step"]

MAX_STEPS, MAX_FREEZES = 16, 16
"""Bounds of the lists: the API server reckons what a rule costs by the longest that may come."""
WallTime = Annotated[
    str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)
]


class FreezeSpec(Schema):
    """A window that begins on each of some weekdays, by the clock on the wall of a time zone."""

    days: Annotated[
        list[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]],
        Field(min_length=1, max_length=7),
    ]
    """Weekdays on which it begins."""
    start: WallTime
    """When it begins."""
    end: WallTime
    """When it ends; not after `start`: on the next day, 00:00 to 00:00 is the whole day."""
    time_zone: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$", max_length=64),
        AfterValidator(known_zone),
    ] = "UTC"
    """IANA time zone, `Europe/Berlin`; where the clock is turned the window is rather too long."""


WEIGHT = "(has({0}.weight) ? {0}.weight : 0)"
"""A step's weight in the API server's language of rules; that of a shadow step is 0."""


class RollbackWindow(Schema):
    """How far back one may go without steps."""

    revisions: Annotated[int, Field(ge=0, le=10)] = 0
    """One of so many revisions that served last comes back without steps, also in a freeze window:
    it has served all traffic before. 0: every revision is a canary first."""


class ShadowSpec(Schema):
    """Requests that are mirrored to the canary; clients never see its answers."""

    percent: Annotated[int, Field(ge=1, le=100)]
    """Share of the requests."""


class StepSpec(Schema):
    """A weight or a shadow, and what must hold to leave it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.weight) != has(self.shadow)",
                "give a step either weight or shadow",
            ),
            ("self.minSeconds <= self.maxSeconds", "minSeconds must not be above maxSeconds"),
        )
    )

    name: Name
    """Its name, unique in the plan."""
    weight: Annotated[int, Field(ge=1, le=9999)] | None = None
    """Share of requests that the canary gets, in 1/10000."""
    shadow: ShadowSpec | None = None
    """Instead of a weight: the canary gets copies of requests."""
    gate: list[Name] = Field(default=[], max_length=MAX_METRICS)
    """Metrics that must all pass, of a shadow step paired ones; none: requests and durations."""
    min_events: Annotated[int, Field(ge=0, le=1_000_000_000)] = 500
    """Requests that both arms together must have answered in this step; of a shadow step, pairs."""
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
                f"self.steps.map(s, {WEIGHT.format('s')}).isSorted() && self.steps.all(a, "
                f"self.steps.exists_one(b, {WEIGHT.format('b')} == {WEIGHT.format('a')}))",
                "weights must increase from step to step, a shadow step is the first",
            ),
            (
                "has(self.steps[self.steps.size() - 1].weight)",
                "the last step needs a weight: clients must meet a canary before it is promoted",
            ),
            (
                "self.intervalSeconds <= 60 || !self.steps.exists(s, has(s.shadow))",
                "a shadow step needs intervalSeconds of at most 60: answers are kept for minutes",
            ),
            (
                "self.steps.all(a, self.steps.exists_one(b, b.name == a.name))",
                "names of steps must be unique",
            ),
        )
    )

    steps: Annotated[list[StepSpec], Field(min_length=1, max_length=MAX_STEPS)]
    """The steps; after the last one the canary is promoted."""
    freeze: list[FreezeSpec] = Field(default=[], max_length=MAX_FREEZES)
    """Windows in which no canary gets more traffic by itself and no person promotes one without the
    command `BreakGlass`. They bind an attempt in flight at once; what protects goes on."""
    rollback_window: RollbackWindow = RollbackWindow()
    """How far back one may go without steps."""
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


def make_policy(strategy: Strategy) -> Policy:
    """Return the policy in the core's words."""
    return Policy(
        on_harm=_lower(strategy.on_harm),
        on_inconclusive=_lower(strategy.on_inconclusive),
        on_missing_evidence=_lower(strategy.on_missing_evidence),
        on_stable_unhealthy=_lower(strategy.on_stable_unhealthy),
        on_new_revision="queue" if strategy.on_new_revision == "QueueLatest" else "supersede",
    )


def make_step(step: StepSpec) -> Step:
    """Return the step in the core's words."""
    return Step(
        name=step.name,
        weight=step.weight or 0,
        gate=tuple(step.gate),
        min_events=step.min_events,
        min_seconds=float(step.min_seconds),
        max_seconds=float(step.max_seconds),
        approval=step.approval,
        mirror=step.shadow.percent * 100 if step.shadow else 0,
    )


def _lower(word: str) -> Any:
    return word.lower()
