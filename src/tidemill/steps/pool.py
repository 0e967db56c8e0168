"""T4's material: predictions of the last matured days, joined with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from tidemill.domain.performance import gaps, z
from tidemill.domain.profile import PerformanceProfile
from tidemill.domain.tiers import check_performance
from tidemill.domain.verdicts import TierResult
from tidemill.ports.objects import ObjectStore
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.prediction_log import read_labels, read_predictions

__all__ = ["Period", "Pool", "judge_pool", "matured_pool"]

Period = tuple[datetime, datetime]
DAY = timedelta(days=1)
MIN_POOLS = 14
"""In-control pools below which a standard deviation says nothing."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Labelled predictions of one revision over the last matured, fault-free days."""

    frame: pl.DataFrame
    """Columns `score`, `label`."""
    days: int
    predicted: int
    """Matured predictions, with or without a label."""
    problem: str = ""
    """Why the labels could not be read."""


def matured_pool(
    objects: ObjectStore,
    model: str,
    revision: str,
    end: datetime,
    settings: MonitoringSettings,
    *,
    horizon: timedelta,
    faulty: Sequence[Period] = (),
) -> Pool:
    """Collect the last `pooled_days` days of predictions whose labels are mature at `end`.

    Days that touch a faulty period are left out, because a fault of data would read as a change of
    the world; the search goes back twice `pooled_days` at most. Labels known after `end` do not
    count, so that a window is judged the same whenever it is judged.
    """
    mature = end - timedelta(hours=settings.maturity_hours) - horizon
    days = [(mature - (k + 1) * DAY, mature - k * DAY) for k in range(2 * settings.pooled_days)]
    sound = [day for day in days if not any(_overlap(day, bad) for bad in faulty)]
    oldest = days[-1][0]
    log = read_predictions(
        objects, model, oldest, mature, ("at", "row_id", "revision", "score")
    ).frame
    if log.is_empty():
        return Pool(pl.DataFrame(), 0, 0)
    log = log.filter(pl.col("revision") == revision, pl.col("row_id").is_not_null())
    log = log.unique("row_id", keep="first", maintain_order=True)
    chosen = [part for day in sound if (part := _within(log, day)).height][: settings.pooled_days]
    if not chosen:
        return Pool(pl.DataFrame(), 0, 0)
    predicted = pl.concat(chosen)
    labels = read_labels(objects, model, oldest, end + horizon)
    if labels.frame.is_empty() or labels.unreadable:
        problem = (
            f"labels cannot be read: {', '.join(labels.unreadable)}" if labels.unreadable else ""
        )
        return Pool(pl.DataFrame(), len(chosen), predicted.height, problem or "there are no labels")
    known = labels.frame.filter(pl.col("label_at") <= end, pl.col("label").is_not_null())
    joined = predicted.join(known.select("row_id", "label"), on="row_id")
    return Pool(joined.select("score", "label"), len(chosen), predicted.height)


def judge_pool(
    pool: Pool, reference: PerformanceProfile, settings: MonitoringSettings
) -> tuple[TierResult, dict[str, float]]:
    """T4: judge a pool, and return its numbers for the record."""
    problem = _unevaluable(pool, reference, settings)
    if problem:
        return TierResult("T4", unevaluated=problem), {}
    labels, scores = (pool.frame[c].cast(pl.Float64).to_numpy() for c in ("label", "score"))
    found = gaps(labels, scores, reference.calibration)
    score = z(found, reference)
    numbers = {"labels": float(len(labels)), "rate": float(labels.mean())}
    numbers |= {f"{key}_gap": value for key, value in found._asdict().items()}
    numbers |= {f"{key}_z": value for key, value in score._asdict().items()}
    result = check_performance(found, score, bound=settings.performance_z, labels=len(labels))
    return result, numbers


def _unevaluable(pool: Pool, reference: PerformanceProfile, settings: MonitoringSettings) -> str:
    if reference.pool_days != settings.pooled_days or reference.pools < MIN_POOLS:
        return (
            f"the profile holds {reference.pools} in-control pools of {reference.pool_days} days;"
            f" {MIN_POOLS} of {settings.pooled_days} days are needed"
        )
    if pool.days < settings.pooled_days:
        return f"{pool.days} of {settings.pooled_days} matured, fault-free days of this revision"
    if pool.problem:
        return pool.problem
    share = pool.frame.height / pool.predicted
    if share < settings.min_label_share:
        return f"{share:.0%} of {pool.predicted} matured predictions have a label"
    if pool.frame["label"].n_unique() < 2:
        return "all labels are equal"
    return ""


def _overlap(one: Period, other: Period) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _within(log: pl.DataFrame, day: Period) -> pl.DataFrame:
    return log.filter((pl.col("at") >= day[0]) & (pl.col("at") < day[1]))
