"""The ModelRollout that wants a registered version: of the settings, or somebody's own resource."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.client import Manifest
from tidemill.adapters.kubernetes.fields import Schema, brief
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_plan
from tidemill.adapters.kubernetes.strategy import Strategy
from tidemill.domain.rollout.model import Plan, Revision
from tidemill.errors import ConfigError
from tidemill.settings import Settings
from tidemill.settings.rollout import AnalysisMetric, RolloutSettings, RolloutStep
from tidemill.settings.shadow import PairedMetric

__all__ = ["MANAGED", "Draft", "make_model"]

S = TypeVar("S", bound=Schema)

MANAGED = {"app.kubernetes.io/managed-by": "tidemill"}
"""Label of a ModelRollout that was written of the settings, and may be written of them again."""


class Draft:
    """What the settings make of a version."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def spec(self, wanted: Revision) -> Manifest:
        """Return the `spec` that wants a version; raises ConfigError."""
        settings = self._settings
        rollout = settings.rollout
        analysis: Manifest = {"inline": _analysis(settings)}
        if rollout.prometheus_url:
            analysis["evidence"] = {"source": "Prometheus", "url": rollout.prometheus_url}
        spec = {
            "model": make_model(wanted),
            "runtime": _runtime(settings),
            "traffic": _traffic(rollout),
            "strategy": _strategy(rollout),
            "analysis": analysis,
        }
        _checked(ModelRolloutSpec, spec)
        return spec

    def plan(self) -> Plan:
        """Return how it takes over; raises ConfigError."""
        rollout = self._settings.rollout
        strategy = _checked(Strategy, _strategy(rollout))
        analysis = _checked(AnalysisSpec, _analysis(self._settings))
        return make_plan(strategy, analysis, math.ceil(rollout.settle_seconds))


def _checked(schema: type[S], body: Manifest) -> S:
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise ConfigError(
            f"the settings make no valid ModelRollout: {brief(error)}",
            hint="see the settings of rollout: tidemill config show --explain",
        ) from error


def make_model(wanted: Revision) -> Manifest:
    """Return `spec.model`: all of the promotion tuple, as the registry has it."""
    low, high = wanted.score_tails
    return {
        "name": wanted.model,
        "version": wanted.version,
        "digest": wanted.digest,
        "threshold": _decimal(wanted.threshold),
        "scoreTails": {"low": _decimal(low), "high": _decimal(high)},
    }


def _runtime(settings: Settings) -> Manifest:
    cluster = settings.rollout.kubernetes
    runtime: Manifest = {
        "image": _image(settings, "serve"),
        "replicas": cluster.replicas,
        "resources": {"requests": cluster.requests, "limits": cluster.limits},
    }
    if cluster.bundles_claim:
        runtime["bundles"] = {"claimName": cluster.bundles_claim}
    else:
        runtime["fetchImage"] = _image(settings, "registry")
    if cluster.config_map:
        runtime["configMap"] = {"name": cluster.config_map}
    if cluster.secret:
        runtime["secret"] = {"name": cluster.secret}
    if cluster.service_account:
        runtime["serviceAccountName"] = cluster.service_account
    if cluster.priority_class:
        runtime["priorityClassName"] = cluster.priority_class
    if cluster.pull_secrets:
        runtime["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    if cluster.node_selector:
        runtime["nodeSelector"] = cluster.node_selector
    if cluster.tolerations:
        runtime["tolerations"] = cluster.tolerations
    return runtime


def _image(settings: Settings, name: Literal["serve", "registry"]) -> str:
    image = settings.execution.images.get(name, "")
    if not re.search(r"@sha256:[0-9a-f]{64}$", image):
        raise ConfigError(
            f"execution.images.{name} is '{image}', expected an image by digest, name@sha256:…: it "
            "is part of what is rolled out, and a tag may mean another image tomorrow",
            hint=f"--set execution.images.{name}=NAME@sha256:DIGEST, or write it to configs/",
        )
    return image


def _traffic(rollout: RolloutSettings) -> Manifest:
    cluster = rollout.kubernetes
    if not cluster.gateway:
        raise ConfigError(
            "rollout.kubernetes.gateway is empty, expected the name of a Gateway",
            hint="kubectl get gateways --all-namespaces",
        )
    parent = {"name": cluster.gateway}
    if cluster.gateway_namespace:
        parent["namespace"] = cluster.gateway_namespace
    traffic: Manifest = {
        "kind": cluster.route,
        "parentRefs": [parent],
        "settleSeconds": math.ceil(rollout.settle_seconds),
    }
    return traffic | ({"hostnames": cluster.hostnames} if cluster.hostnames else {})


def _strategy(rollout: RolloutSettings) -> Manifest:
    return {
        "steps": [_step(step) for step in rollout.steps],
        "freeze": [
            {
                "days": [day.title() for day in window.days],
                "start": window.start,
                "end": window.end,
                "timeZone": window.time_zone,
            }
            for window in rollout.freeze
        ],
        "rollbackWindow": {"revisions": rollout.rollback_window},
        "onHarm": rollout.on_harm.title(),
        "onInconclusive": rollout.on_inconclusive.title(),
        "onMissingEvidence": rollout.on_missing_evidence.title(),
        "onStableUnhealthy": rollout.on_stable_unhealthy.title(),
        "onNewRevision": "QueueLatest" if rollout.on_new_revision == "queue" else "Supersede",
        "missingAfterSeconds": math.ceil(rollout.missing_after_seconds),
        "maxGapPercent": _percent("rollout.max_gap", rollout.max_gap),
        "progressDeadlineSeconds": math.ceil(rollout.progress_deadline_seconds),
        "scaleDownDelaySeconds": math.ceil(rollout.scale_down_seconds),
        "intervalSeconds": math.ceil(rollout.interval_seconds),
    }


def _step(step: RolloutStep) -> Manifest:
    share = {"shadow": {"percent": step.shadow.percent}} if step.shadow else {"weight": step.weight}
    return share | {
        "name": step.name,
        "gate": step.gate,
        "minEvents": step.min_events,
        "minSeconds": math.ceil(step.min_seconds),
        "maxSeconds": math.ceil(step.max_seconds),
        "approval": step.approval,
    }


def _analysis(settings: Settings) -> Manifest:
    analysis = settings.rollout.analysis
    maturation = settings.monitoring.maturity_hours * 3600 + settings.features.horizon_minutes * 60
    return {
        "alpha": _decimal(analysis.alpha),
        "beta": _decimal(analysis.beta),
        "srmAlpha": _decimal(analysis.srm_alpha),
        "minBadEvents": analysis.min_bad_events,
        "minCoveragePercent": _percent("rollout.analysis.min_coverage", analysis.min_coverage),
        "maturationSeconds": math.ceil(maturation),
        "maxLostPercent": _percent("rollout.analysis.max_lost", analysis.max_lost),
        "metrics": [_metric(metric) for metric in analysis.metrics],
        "paired": [_paired(metric) for metric in analysis.paired],
    }


def _metric(metric: AnalysisMetric) -> Manifest:
    key = f"rollout.analysis.metrics '{metric.name}': alpha_share"
    made: dict[str, Any] = {
        "name": metric.name,
        "event": metric.event,
        "harmRatio": _decimal(metric.harm_ratio),
        "passRatio": _decimal(metric.pass_ratio),
        "alphaShare": _percent(key, metric.alpha_share),
    }
    return made if metric.max_rate is None else made | {"maxRate": _decimal(metric.max_rate)}


def _paired(metric: PairedMetric) -> Manifest:
    key = f"rollout.analysis.paired '{metric.name}': alpha_share"
    return {
        "name": metric.name,
        "event": metric.event,
        "maxRate": _decimal(metric.max_rate),
        "maxDifference": _decimal(metric.max_difference),
        "alphaShare": _percent(key, metric.alpha_share),
    }


def _percent(key: str, share: float) -> int:
    percent = round(share * 100)
    if not math.isclose(percent, share * 100, abs_tol=1e-6):
        raise ConfigError(
            f"{key} is {share:g}, expected a whole number of percents on a cluster",
            hint=f"{percent / 100:g}, for example",
        )
    return percent


def _decimal(number: float) -> str:
    """Write a number as the API server keeps it: it may rewrite a float."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
