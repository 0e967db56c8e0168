"""Rollout: the canary's plan and the error rates of its decisions."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from tidemill.settings.base import Group, Url
from tidemill.settings.shadow import PairedMetric, ShadowStep

__all__ = [
    "AnalysisMetric",
    "AnalysisSettings",
    "ClusterSettings",
    "FreezeWindow",
    "RolloutSettings",
    "RolloutStep",
    "known_zone",
]


WallTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


def known_zone(name: str) -> str:
    """Return the name of a time zone; raises ValueError for one that is not known here."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"'{name}' is no IANA time zone, expected one as Europe/Berlin") from error
    return name


class AnalysisMetric(Group):
    """One event whose rate is compared between canary and stable."""

    name: str
    """Name, referred to by step gates."""
    event: Literal["error", "slow", "invalid", "low", "high", "wrong"]
    """What is counted per request. At once: `error`, 5xx; `slow`, slower than the SLO; `invalid`, a
    score not in [0,1]; `low` and `high`, a score in the lowest or highest quarter of the stable
    model's, of which the canary may not have too few: ratios are stable-to-canary. When labels have
    matured: `wrong`, a loss: a missed event costs 1, a false alarm the stable model's prior odds,
    so that a model that knows nothing loses the same whichever way it leans (docs: rollout)."""
    harm_ratio: float = Field(default=1.2, ge=1)
    """Harm is a canary-to-stable ratio of event rates above this."""
    pass_ratio: float = Field(default=1.5, gt=1)
    """Pass is a ratio below this, shown at level `beta`."""
    max_rate: float | None = Field(default=None, gt=0, lt=1)
    """Absolute guard: the canary's rate above this is harm unless stable is above it, too. It takes
    half of the metric's `alpha_share`."""
    alpha_share: float = Field(default=0.25, gt=0, le=1)
    """This metric's part of the attempt's false-rollback budget."""


class AnalysisSettings(Group):
    """Error rates of the automatic decisions of one rollout attempt."""

    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Chance that a harmless canary is ever rolled back, over the whole attempt."""
    beta: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance, per gated metric, that a canary at the margin passes."""
    min_bad_events: int = Field(default=5, ge=1)
    """Bad canary events needed before harm acts: a single failure is no verdict. Five of one
    client are enough; nothing asks how many clients they came from."""
    srm_alpha: float = Field(default=0.0001, gt=0, lt=0.1)
    """Level of the sample-ratio test."""
    min_coverage: float = Field(default=0.8, ge=0, le=1)
    """Share of each arm's requests that must have a matured label; cancelled flights never do."""
    metrics: list[AnalysisMetric] = Field(
        default=[
            AnalysisMetric(name="errors", event="error", max_rate=0.05, alpha_share=0.35),
            AnalysisMetric(name="slow", event="slow", pass_ratio=2.0, alpha_share=0.15),
            AnalysisMetric(
                name="low-scores", event="low", harm_ratio=10, pass_ratio=20, alpha_share=0.05
            ),
            AnalysisMetric(
                name="high-scores", event="high", harm_ratio=10, pass_ratio=20, alpha_share=0.05
            ),
            AnalysisMetric(
                name="wrong", event="wrong", harm_ratio=1.05, pass_ratio=1.2, alpha_share=0.4
            ),
        ]
    )
    """The metrics that are watched."""
    paired: list[PairedMetric] = Field(default_factory=list)
    """What a shadow step compares request by request; alpha_share counts with the others'."""
    max_lost: float = Field(default=0.05, ge=0, lt=1)
    """Share of the mirrored requests of which no pair was made, above which no shadow step passes:
    the lost ones may be those that differ."""


class RolloutStep(Group):
    """One step of the plan: a weight, and what must hold to leave it."""

    name: str
    """Name of the step."""
    weight: int = Field(default=0, ge=0, le=10000)
    """Share of requests that the canary gets, in 1/10000; 0 in a shadow step alone."""
    shadow: ShadowStep | None = None
    """Instead of a weight: the canary gets copies of requests and no client gets its answers."""
    gate: list[str] = Field(default_factory=list)
    """Metrics that must all pass; empty means events and durations alone. In a shadow step those of
    `analysis.paired`, else those of `analysis.metrics`."""
    min_events: int = Field(default=500, ge=0)
    """Requests both arms together must have answered in this step; in a shadow step, pairs."""
    min_seconds: float = Field(default=0, ge=0)
    """Shortest stay, in seconds of the rollout's clock."""
    max_seconds: float = Field(default=604800, gt=0)
    """Undecided after this, in seconds of the rollout's clock: `on_inconclusive`."""
    approval: bool = False
    """Wait for `tidemill rollout approve`."""


class FreezeWindow(Group):
    """A window that begins on each of some weekdays, by the clock on the wall of a time zone."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(min_length=1)
    """Weekdays on which it begins."""
    start: WallTime
    """When it begins, "HH:MM" in quotes: YAML reads 18:00 as a number."""
    end: WallTime
    """When it ends; not after `start`: on the next day, 00:00 to 00:00 is the whole day."""
    time_zone: Annotated[str, AfterValidator(known_zone)] = "UTC"
    """IANA time zone, `Europe/Berlin`; where the clock is turned the window is rather too long."""


class ClusterSettings(Group):
    """The ModelRollout that `tidemill rollout start --on kubernetes` writes.

    The servers run `execution.images.serve`; its digest is part of the revision, so a tag is
    refused. Durations are rounded up to whole seconds, shares must be whole percents.
    """

    namespace: str = ""
    """Namespace of the ModelRollout; empty: that of the pod, or of the kubeconfig's context."""
    gateway: str = ""
    """Gateway, of the Gateway API, that clients come through."""
    gateway_namespace: str = ""
    """Its namespace; empty: that of the ModelRollout."""
    route: Literal["HTTPRoute", "GRPCRoute"] = "HTTPRoute"
    """Kind of the route that is made; with GRPCRoute the servers offer gRPC, too."""
    hostnames: list[str] = Field(default_factory=list)
    """Host names of the route; none: those of the Gateway's listeners."""
    replicas: int = Field(default=2, ge=1, le=1000)
    """Servers per revision; one alone cannot be moved to another node without a gap."""
    bundles_claim: str = ""
    """PersistentVolumeClaim that holds bundles under `bundles/<revision>`; empty: an init container
    with `execution.images.registry` fetches the bundle from the registry."""
    requests: dict[str, str] = Field(default={"cpu": "500m", "memory": "512Mi"})
    """What the scheduler keeps free for one server, Kubernetes quantities."""
    limits: dict[str, str] = Field(default={"memory": "1Gi"})
    """What one server may not exceed; no CPU limit by default, throttling is slow requests."""
    config_map: str = ""
    """ConfigMap whose keys become the servers' environment variables: their settings."""
    secret: str = ""
    """Secret whose keys become the servers' environment variables: credentials."""
    service_account: str = ""
    """Service account of the servers; empty: the namespace's default. No token is mounted."""
    pull_secrets: list[str] = Field(default_factory=list)
    """Secrets with which the servers' images are pulled."""
    priority_class: str = ""
    """PriorityClass of the servers; with the chart's classes its name ends with `-serving`. Empty:
    the cluster's default, and what has a higher one may take the servers' place."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Nodes that may run the servers, by label."""
    tolerations: list[dict[str, str | int]] = Field(default_factory=list)
    """Taints that the servers tolerate, each as in a pod."""


class RolloutSettings(Group):
    """How a new version takes over traffic."""

    target: Literal["local", "kubernetes"] = "local"
    """Default of `tidemill rollout --on`, where the pipelines' `deploy` step starts it, and where
    the governor looks whether one is in flight."""
    steps: list[RolloutStep] = Field(
        min_length=1,
        default=[
            RolloutStep(name="c5", weight=500, min_events=300),
            RolloutStep(name="c25", weight=2500, min_events=600),
            RolloutStep(
                name="c50", weight=5000, gate=["wrong"], min_events=2000, max_seconds=1209600
            ),
        ],
    )
    """The steps, weights strictly increasing, a shadow step first if there is one; after the last
    one the canary is promoted."""
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
    max_gap: float = Field(default=0.05, ge=0, lt=1)
    """Share of a step whose evidence may be lost (a server restarted) before nothing passes."""
    on_stable_unhealthy: Literal["freeze", "proceed"] = "freeze"
    """Stable itself is above a `max_rate`: wait, or let a canary that may be the cure go on."""
    on_new_revision: Literal["supersede", "queue"] = "supersede"
    """A newer version during an attempt: replace it, or wait for its end."""
    progress_deadline_seconds: float = Field(default=120, gt=0)
    """The canary's server must be ready within this time."""
    scale_down_seconds: float = Field(default=5, ge=0)
    """The old server lives this long after promotion, for an instant way back."""
    freeze: list[FreezeWindow] = Field(default_factory=list)
    """Windows in which no canary gets more traffic by itself and no person promotes one without
    `tidemill rollout break-glass`; what protects goes on. In force from the next `start`."""
    rollback_window: int = Field(default=0, ge=0, le=10)
    """One of so many versions that served last comes back without steps, also in a freeze window:
    it has served all traffic before. 0: every version is a canary first."""
    analysis: AnalysisSettings = AnalysisSettings()
    """Error rates and metrics."""
    prometheus_url: Url = ""
    """Where Prometheus' HTTP API is that has scraped the servers, `http://127.0.0.1:9090`; empty:
    the servers' own /metrics are read. A ModelRollout says it in its own `analysis.evidence`."""
    interval_seconds: float = Field(default=1.0, gt=0)
    """Time between two looks at the evidence (wall clock)."""
    kubernetes: ClusterSettings = ClusterSettings()
    """The resource on a cluster."""
    expected_rate: float = Field(default=10.0, gt=0)
    """Requests per second of the project's clock that both arms together get; `config check` tells
    from it whether a step can have its requests, `rollout plan` how long each step takes."""
