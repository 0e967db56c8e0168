"""The plan of an attempt, made from the settings."""

from __future__ import annotations

from tidemill.domain.evidence import Metric, Tolerance
from tidemill.domain.paired import PairedRate
from tidemill.domain.rollout.freeze import make_freeze
from tidemill.domain.rollout.model import Plan, Policy, Step
from tidemill.settings import Settings
from tidemill.settings.rollout import AnalysisMetric, RolloutStep
from tidemill.settings.shadow import PairedMetric

__all__ = ["make_plan"]


def make_plan(settings: Settings) -> Plan:
    """Return the rollout's plan; an attempt keeps the one it began with."""
    rollout, analysis = settings.rollout, settings.rollout.analysis
    maturity = settings.monitoring.maturity_hours * 3600
    return Plan(
        steps=tuple(map(_step, rollout.steps)),
        metrics=tuple(_metric(metric, analysis.alpha) for metric in analysis.metrics),
        tolerance=Tolerance(
            beta=analysis.beta,
            srm_alpha=analysis.srm_alpha,
            min_bad_events=analysis.min_bad_events,
            min_coverage=analysis.min_coverage,
        ),
        policy=Policy(
            on_harm=rollout.on_harm,
            on_inconclusive=rollout.on_inconclusive,
            on_missing_evidence=rollout.on_missing_evidence,
            on_stable_unhealthy=rollout.on_stable_unhealthy,
            on_new_revision=rollout.on_new_revision,
        ),
        maturation_seconds=maturity + settings.features.horizon_minutes * 60,
        settle_seconds=rollout.settle_seconds,
        missing_after_seconds=rollout.missing_after_seconds,
        max_gap=rollout.max_gap,
        progress_deadline_seconds=rollout.progress_deadline_seconds,
        scale_down_seconds=rollout.scale_down_seconds,
        interval_seconds=rollout.interval_seconds,
        rollback_window=rollout.rollback_window,
        freeze=tuple(
            make_freeze(window.days, window.start, window.end, window.time_zone)
            for window in rollout.freeze
        ),
        paired=tuple(_paired(metric, analysis.alpha) for metric in analysis.paired),
        max_lost=analysis.max_lost,
    )


def _step(step: RolloutStep) -> Step:
    return Step(
        name=step.name,
        weight=step.weight,
        gate=tuple(step.gate),
        min_events=step.min_events,
        min_seconds=step.min_seconds,
        max_seconds=step.max_seconds,
        approval=step.approval,
        mirror=step.shadow.percent * 100 if step.shadow else 0,
    )


def _metric(metric: AnalysisMetric, alpha: float) -> Metric:
    return Metric(
        name=metric.name,
        event=metric.event,
        harm_ratio=metric.harm_ratio,
        pass_ratio=metric.pass_ratio,
        max_rate=metric.max_rate,
        alpha=alpha * metric.alpha_share,
    )


def _paired(metric: PairedMetric, alpha: float) -> PairedRate:
    return PairedRate(
        name=metric.name,
        event=metric.event,
        max_rate=metric.max_rate,
        max_difference=metric.max_difference,
        alpha=alpha * metric.alpha_share,
    )
