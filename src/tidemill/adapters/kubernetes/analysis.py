"""What decides: metrics and error rates, in the rollout or in an AnalysisPolicy."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from tidemill.adapters.kubernetes.fields import Name, Number, Reference, Schema, Seconds, rules
from tidemill.domain.evidence import Metric, Tolerance
from tidemill.domain.paired import PairedEvent, PairedRate

__all__ = [
    "MAX_METRICS",
    "Analysis",
    "AnalysisSpec",
    "make_metric",
    "make_paired",
    "make_tolerance",
]

MAX_METRICS = 12
"""Of a list: the API server reckons what a rule costs by the longest that may come."""


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


class PairedSpec(Schema):
    """One event whose share of the pairs must stay below a limit, in a shadow step."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[self.maxRate, self.maxDifference].all(n, double(n) > 0.0 && double(n) < 1.0)",
                "maxRate and maxDifference must lie between 0 and 1",
            )
        )
    )

    name: Name
    """Its name, referred to by the gate of the shadow step."""
    event: PairedEvent
    """What is counted per pair of answers to one request (docs: rollout)."""
    max_rate: Number
    """Pass is a rate below this, harm one above."""
    max_difference: Number = "0.1"
    """Scores that are further apart are the event `difference`."""
    alpha_share: Annotated[int, Field(ge=1, le=100)] = 10
    """This metric's percent of alpha."""


class AnalysisSpec(Schema):
    """Error rates of the automatic decisions, and the metrics they rest on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metrics.all(a, self.metrics.exists_one(b, b.name == a.name)) && "
                "self.paired.all(a, self.paired.exists_one(b, b.name == a.name) && "
                "!self.metrics.exists(b, b.name == a.name))",
                "names of metrics must be unique",
            ),
            (
                "self.metrics.map(m, m.alphaShare).sum() + "
                "self.paired.map(m, m.alphaShare).sum() <= 100",
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
    paired: list[PairedSpec] = Field(default=[], max_length=MAX_METRICS)
    """What a shadow step compares request by request."""
    max_lost_percent: Annotated[int, Field(ge=0, le=99)] = 5
    """Share of the mirrored requests of which no pair was made, above which no shadow step passes:
    the lost ones may be those that differ."""


class EvidenceFrom(Schema):
    """Where the servers' counters are read."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(self.source == 'Prometheus') == has(self.url)",
                "Prometheus needs a url, Runtime has none",
            )
        )
    )

    source: Literal["Runtime", "Prometheus"] = "Runtime"
    """Runtime: each pod's /metrics. Prometheus: what it has scraped of them."""
    url: (
        Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:/_-]+$", max_length=253)]
        | None
    ) = None
    """Where Prometheus' HTTP API is, `http://prometheus.monitoring:9090`."""


class Analysis(Schema):
    """Where the analysis is written: here, or in an AnalysisPolicy; and what it rests on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.policyRef) != has(self.inline)", "give either policyRef or inline")
        )
    )

    policy_ref: Reference | None = None
    """AnalysisPolicy of the same namespace; an attempt keeps what it said when it began."""
    inline: AnalysisSpec | None = None
    """The analysis itself."""
    evidence: EvidenceFrom | None = None
    """Where the servers' counters are read; by default each pod's /metrics."""

    @property
    def prometheus(self) -> str:
        """URL of the Prometheus that is asked; empty: the pods are."""
        return self.evidence.url or "" if self.evidence else ""


def make_tolerance(analysis: AnalysisSpec) -> Tolerance:
    """Return the error rates that all metrics share."""
    return Tolerance(
        beta=float(analysis.beta),
        srm_alpha=float(analysis.srm_alpha),
        min_bad_events=analysis.min_bad_events,
        min_coverage=analysis.min_coverage_percent / 100,
    )


def make_metric(metric: MetricSpec, alpha: Decimal) -> Metric:
    """Return the metric with its part of `alpha`, reckoned without a float's error."""
    return Metric(
        name=metric.name,
        event=metric.event,
        harm_ratio=float(metric.harm_ratio),
        pass_ratio=float(metric.pass_ratio),
        max_rate=None if metric.max_rate is None else float(metric.max_rate),
        alpha=float(alpha * metric.alpha_share / 100),
    )


def make_paired(metric: PairedSpec, alpha: Decimal) -> PairedRate:
    """Return the metric of a shadow step with its part of `alpha`."""
    return PairedRate(
        name=metric.name,
        event=metric.event,
        max_rate=float(metric.max_rate),
        max_difference=float(metric.max_difference),
        alpha=float(alpha * metric.alpha_share / 100),
    )
