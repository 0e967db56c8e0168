"""Cross-checks: settings that are each valid and together make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from tidemill.domain.criteria import BASELINES, METRICS, PARITY_METRICS
from tidemill.errors import ConfigError
from tidemill.settings.execution import StepResources
from tidemill.settings.schema import Settings

__all__ = ["check", "check_pods", "check_rollout", "refuse"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SPINE = frozenset({"month"})
"""Columns besides the model's inputs that every spine holds, so that a gate may slice by them."""


def check(settings: Settings, root: Path) -> list[str]:
    """Return what contradicts what, one sentence each with the keys; empty means none found.

    `root` is the project's folder. Nothing is loaded or asked: this takes milliseconds.
    """
    return [
        *_data(settings, root),
        *_gates(settings),
        *_inputs(settings),
        *check_rollout(settings),
        *_monitoring(settings),
    ]


def check_rollout(settings: Settings) -> list[str]:
    """Return what of a rollout's steps, metrics and error budget contradicts what."""
    return list(_rollout(settings))


def check_pods(settings: Settings, root: Path) -> list[str]:
    """Return what the pods of a pipeline backend could not reach, or would each have anew.

    `root` is the project's folder, where paths of the settings begin.
    """
    return [*_stores(settings), *_keys(settings, root)]


def _stores(settings: Settings) -> Iterator[str]:
    storage, registry = settings.storage, settings.registry
    remote = settings.data.versions.remote
    if not storage.objects.startswith("s3://"):
        yield f"storage.objects is {storage.objects}, which no pod can read: set s3://bucket/prefix"
    if storage.database.startswith("sqlite"):
        yield f"storage.database is {storage.database}, a file of each pod: name a PostgreSQL"
    if not remote.startswith("s3://"):
        yield f"data.versions.remote is {remote}, which pods do not share: set s3://bucket/prefix"
    if urlsplit(registry.uri).hostname in LOOPBACK:
        yield f"registry.uri is {registry.uri}, in a pod that pod itself: name an MLflow server"


def _keys(settings: Settings, root: Path) -> Iterator[str]:
    private, public = PurePath(settings.registry.signing_key), settings.registry.verify_key
    register = settings.execution.resources.get("register", StepResources())
    if private.parent not in map(PurePath, register.secret_files):
        yield (
            f"registry.signing_key is {private}, where no secret is mounted: set an absolute path,"
            " and its folder with the secret's name in execution.resources.register.secret_files"
        )
    state = (root / settings.storage.state).resolve()
    if (root / public).resolve().is_relative_to(state):
        yield (
            f"registry.verify_key is {public}, which no pod has: put it into the images,"
            " configs/signing.pub"
        )


def refuse(problems: Sequence[str], why: str = "the settings clash") -> None:
    """Raise ConfigError that lists the problems, if there are any."""
    if problems:
        raise ConfigError(
            f"{why}:\n" + "\n".join(f"  - {p}" for p in problems),
            hint="where each value comes from: tidemill config show --explain",
        )


def _data(settings: Settings, root: Path) -> Iterator[str]:
    data = settings.data
    if data.start > data.end:
        yield f"data.start is {data.start}, after data.end, which is {data.end}"
    if not (root / data.contract).is_file():
        yield f"data.contract names '{data.contract}', which is no file in {root}"


def _gates(settings: Settings) -> Iterator[str]:
    gates = settings.gates
    metrics = {*METRICS, *PARITY_METRICS}
    for name in sorted(set(gates.thresholds) - metrics):
        known = ", ".join(sorted(metrics))
        yield f"gates.thresholds names '{name}', which no step computes (computed: {known})"
    for name in sorted(set(gates.beat_baselines) - {*BASELINES}):
        known = ", ".join(sorted(BASELINES))
        yield f"gates.beat_baselines names '{name}', which no step fits (fitted: {known})"
    columns = {*SPINE, *(column.name for column in settings.training.inputs)}
    for name in sorted(set(gates.slices) - columns):
        known = ", ".join(sorted(columns))
        yield f"gates.slices names '{name}', which no row to be judged has (columns: {known})"


def _inputs(settings: Settings) -> Iterator[str]:
    names = [column.name for column in settings.training.inputs]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"training.inputs lists '{name}' twice"
    if settings.training.label in names:
        yield f"training.inputs lists the label '{settings.training.label}': the model would see it"
    if settings.serving.row_id in names:
        yield f"training.inputs lists the row id '{settings.serving.row_id}'"


def _rollout(settings: Settings) -> Iterator[str]:
    rollout = settings.rollout
    metrics = {metric.name: metric for metric in rollout.analysis.metrics}
    paired = {metric.name: metric for metric in rollout.analysis.paired}
    if len(metrics | paired) < len(rollout.analysis.metrics) + len(rollout.analysis.paired):
        yield "rollout.analysis.metrics and paired use one name twice"
    share = sum(m.alpha_share for m in metrics.values())
    share += sum(m.alpha_share for m in paired.values())
    if share > 1 + 1e-9:
        yield (
            f"rollout.analysis.metrics and paired: alpha_share sums to {share:g}, more than the"
            " whole budget"
        )
    for metric in metrics.values():
        if metric.pass_ratio <= metric.harm_ratio:
            yield (
                f"rollout.analysis.metrics '{metric.name}': pass_ratio {metric.pass_ratio:g} must"
                f" be above harm_ratio {metric.harm_ratio:g}"
            )
        if metric.max_rate is not None and metric.event in ("low", "high"):
            yield (
                f"rollout.analysis.metrics '{metric.name}': max_rate bounds a bad event, and"
                f" '{metric.event}' scores are none"
            )
    weight = 0
    for step in rollout.steps:
        if step.shadow:
            yield from _shadow(settings, step.name)
        elif step.weight <= weight:
            yield (
                f"rollout.steps '{step.name}': weight {step.weight} does not rise above {weight}"
            )
        weight = step.weight
        field, known = ("paired", set(paired)) if step.shadow else ("metrics", set(metrics))
        for name in sorted(set(step.gate) - known):
            yield (
                f"rollout.steps '{step.name}': its gate names the metric '{name}', which"
                f" rollout.analysis.{field} lacks (has: {', '.join(sorted(known))})"
            )
        yield from _time(settings, step.name)
    if weight >= 10000:
        yield "rollout.steps: the last weight is 10000; promotion follows the last step by itself"


def _shadow(settings: Settings, name: str) -> Iterator[str]:
    rollout = settings.rollout
    first, *_ = rollout.steps
    step = next(step for step in rollout.steps if step.name == name)
    if step.weight:
        yield f"rollout.steps '{name}': a shadow step has no weight, this has {step.weight}"
    if step is not first:
        yield f"rollout.steps '{name}': a shadow step comes first, before clients meet the canary"
    if rollout.interval_seconds > 60:
        yield (
            f"rollout.steps '{name}': interval_seconds is {rollout.interval_seconds:g}, and answers"
            " to compare are kept for minutes: at most 60"
        )
    if settings.serving.workers > 1:
        yield (
            f"rollout.steps '{name}': answers are compared within one process, and serving.workers"
            f" is {settings.serving.workers}"
        )
    if len(rollout.steps) == 1:
        yield f"rollout.steps '{name}': clients must meet the canary before it is promoted"


def _time(settings: Settings, name: str) -> Iterator[str]:
    rollout = settings.rollout
    step = next(step for step in rollout.steps if step.name == name)
    if step.min_seconds >= step.max_seconds:
        yield f"rollout.steps '{name}': min_seconds leaves no time before max_seconds"
    rate = rollout.expected_rate * (step.shadow.percent / 100 if step.shadow else 1)
    if step.min_events > rate * step.max_seconds:
        yield (
            f"rollout.steps '{name}': {step.min_events} events need"
            f" {step.min_events / rate:.0f} s at rollout.expected_rate ="
            f" {rollout.expected_rate:g}/s, but max_seconds is {step.max_seconds:g}"
        )
    delayed = {m.name for m in rollout.analysis.metrics if m.event == "wrong"}
    maturity = settings.monitoring.maturity_hours * 3600
    if delayed & set(step.gate) and step.max_seconds <= maturity:
        yield (
            f"rollout.steps '{name}': its gate waits for labels that mature after"
            f" {maturity:g} s, but max_seconds is {step.max_seconds:g}"
        )


def _monitoring(settings: Settings) -> Iterator[str]:
    hits, windows = settings.monitoring.persistence
    if not 1 <= hits <= windows:
        yield f"monitoring.persistence is {hits} of {windows}: write [k, n] with 1 <= k <= n"
    names = {column.name for column in settings.training.inputs}
    for name in sorted(set(settings.monitoring.mix_columns) - names):
        yield f"monitoring.mix_columns names '{name}', which training.inputs lacks"
    if settings.retraining.cooldown_days > settings.retraining.schedule_days:
        yield "retraining.cooldown_days is longer than schedule_days: drift could never retrain"
