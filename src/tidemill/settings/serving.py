"""Serving and rollout: the model servers, the gateway, the canary's plan."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tidemill.settings.base import Group

__all__ = [
    "AnalysisMetric",
    "AnalysisSettings",
    "GatewaySettings",
    "PredictionLogSettings",
    "RolloutSettings",
    "RolloutStep",
    "ServingSettings",
]


class PredictionLogSettings(Group):
    """What the server keeps of every prediction."""

    sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged."""
    buffer_rows: int = Field(default=20000, ge=1)
    """Rows held in memory; above it rows are dropped and counted, inference never waits."""
    flush_rows: int = Field(default=5000, ge=1)
    """A Parquet file is written after this many rows …"""
    flush_seconds: float = Field(default=5.0, gt=0)
    """… or this many seconds, whichever is first. A crash loses at most one interval."""


class ServingSettings(Group):
    """The inference server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    row_id: str = "flight_id"
    """Optional request column that identifies a row: it joins predictions with labels."""
    max_body_bytes: int = Field(default=8_388_608, ge=1024)
    """Larger request bodies are refused with 413."""
    max_rows: int = Field(default=4096, ge=1)
    """More rows in one request are refused with 400."""
    nan_policy: Literal["allow", "reject"] = "allow"
    """`allow`: NaN in a numeric column means missing, the graph imputes it. `reject`: 400."""
    lookup_deadline_ms: float = Field(default=50.0, gt=0)
    """Online features that do not arrive in time become defaults, marked and counted."""
    intra_op_threads: int = Field(default=1, ge=1)
    """Threads of ONNX Runtime per inference."""
    drain_seconds: float = Field(default=10.0, ge=0)
    """After SIGTERM, in-flight requests get this long."""
    slow_ms: float = Field(default=250.0, gt=0)
    """A slower request is a 'slow' event for the rollout's analysis: the SLO."""
    verify: bool = True
    """Verify signature and digest of a bundle before loading; off is for development only."""
    log: PredictionLogSettings = PredictionLogSettings()
    """The prediction log."""


class GatewaySettings(Group):
    """Envoy, the local gateway."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that clients call."""
    admin_port: int = Field(default=9901, ge=1, le=65535)
    """Envoy's admin port, on loopback."""
    server_ports: tuple[int, int] = (8100, 8199)
    """Range from which model servers take their ports."""


class AnalysisMetric(Group):
    """One bad event whose rate is compared between canary and stable."""

    name: str
    """Name, referred to by step gates."""
    kind: Literal["EventRatio", "DelayedOutcome"] = "EventRatio"
    """`EventRatio` counts at request time; `DelayedOutcome` waits for matured labels."""
    event: Literal["error", "slow", "invalid", "wrong"]
    """What is counted: 5xx, slower than the SLO, score not in [0,1], label says wrong."""
    harm_ratio: float = Field(default=1.2, ge=1)
    """Harm is a canary-to-stable ratio of event rates above this."""
    pass_ratio: float = Field(default=1.5, gt=1)
    """Pass is a ratio below this, shown at level `beta`."""
    max_rate: float | None = Field(default=None, gt=0, lt=1)
    """Absolute guard: the canary's rate above this is harm whatever stable does."""
    alpha_share: float = Field(default=0.25, gt=0, le=1)
    """This metric's part of the attempt's false-rollback budget."""


class AnalysisSettings(Group):
    """Error rates of the automatic decisions of one rollout attempt."""

    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Chance that a harmless canary is ever rolled back, over the whole attempt."""
    beta: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance, per gated metric, that a canary at the margin passes."""
    min_bad_events: int = Field(default=5, ge=1)
    """Bad canary events needed before harm acts: one poisoned client cannot decide."""
    srm_alpha: float = Field(default=0.0001, gt=0, lt=0.1)
    """Level of the sample-ratio test."""
    metrics: list[AnalysisMetric] = Field(
        default=[
            AnalysisMetric(name="errors", event="error", max_rate=0.05, alpha_share=0.4),
            AnalysisMetric(name="slow", event="slow", pass_ratio=2.0, alpha_share=0.2),
            AnalysisMetric(
                name="wrong",
                kind="DelayedOutcome",
                event="wrong",
                harm_ratio=1.05,
                pass_ratio=1.15,
                alpha_share=0.4,
            ),
        ]
    )
    """The metrics that are watched."""


class RolloutStep(Group):
    """One step of the plan: a weight, and what must hold to leave it."""

    name: str
    """Name of the step."""
    weight: int = Field(ge=0, le=10000)
    """Share of requests that the canary gets, in 1/10000."""
    gate: list[str] = Field(default_factory=list)
    """Metrics that must all pass; empty means events and durations alone."""
    min_events: int = Field(default=500, ge=0)
    """Requests both arms together must have answered in this step."""
    min_seconds: float = Field(default=0, ge=0)
    """Shortest stay, in seconds of the rollout's clock."""
    max_seconds: float = Field(default=3600, gt=0)
    """Undecided after this: `on_inconclusive`."""
    approval: bool = False
    """Wait for `tidemill rollout approve`."""


class RolloutSettings(Group):
    """How a new version takes over traffic."""

    steps: list[RolloutStep] = Field(
        min_length=1,
        default=[
            RolloutStep(name="c5", weight=500, gate=[], min_events=300),
            RolloutStep(name="c25", weight=2500, gate=[], min_events=1000),
            RolloutStep(
                name="c50", weight=5000, gate=["wrong"], min_events=2000, max_seconds=1209600
            ),
        ],
    )
    """The steps, weights strictly increasing; after the last one the canary is promoted."""
    settle_seconds: float = Field(default=1.0, ge=0)
    """Evidence of this time after a weight change is dropped (wall clock)."""
    on_harm: Literal["rollback", "freeze"] = "rollback"
    """What a harm verdict does."""
    on_inconclusive: Literal["pause", "rollback", "continue"] = "pause"
    """What an undecided gate does when its time is over."""
    on_missing_evidence: Literal["pause", "rollback"] = "pause"
    """What missing evidence does; it is never read as health."""
    missing_after_seconds: float = Field(default=60, gt=0)
    """How long evidence may be missing."""
    on_new_revision: Literal["supersede", "queue"] = "supersede"
    """A newer version during an attempt: replace it, or wait for its end."""
    progress_deadline_seconds: float = Field(default=120, gt=0)
    """The canary's server must be ready within this time."""
    scale_down_seconds: float = Field(default=5, ge=0)
    """The old server lives this long after promotion, for an instant way back."""
    analysis: AnalysisSettings = AnalysisSettings()
    """Error rates and metrics."""
    interval_seconds: float = Field(default=1.0, gt=0)
    """Time between two looks at the evidence (wall clock)."""
