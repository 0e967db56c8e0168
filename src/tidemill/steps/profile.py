"""profile: turn out-of-fold predictions of the training period into the reference of monitoring.

The predictions must be out of fold (each row scored by a model that was not fitted on its day):
in-sample scores are too good, and every later day would look like a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.bundle import InputColumn
from tidemill.domain.drift import Bins, category_bins, numeric_bins, psi
from tidemill.domain.performance import auc, expected_logloss, gaps
from tidemill.domain.profile import FeatureProfile, PerformanceProfile, Profile
from tidemill.errors import DataError
from tidemill.settings.monitoring import MonitoringSettings

__all__ = ["build_profile", "column_values"]

Counts = npt.NDArray[np.int64]


def build_profile(
    oof: pl.DataFrame,
    inputs: Sequence[InputColumn],
    settings: MonitoringSettings,
    *,
    label: str = "late",
) -> dict[str, Any]:
    """Return the JSON form of the reference profile (`domain.profile.Profile`).

    `oof` has one row per training row: `event_timestamp` (Datetime), `score` (out of fold),
    `label` (0 or 1) and the columns `inputs`. The first `warmup_days` and blocks of `window_hours`
    with fewer than `min_rows` rows are left out. Raises DataError when a column is missing, a label
    or score is null, or fewer than two blocks remain.
    """
    columns = {
        column.name: "category" if column.datatype == "BYTES" else "numeric" for column in inputs
    }
    _check(oof, [*columns, "event_timestamp", "score", label], label)
    frame = _settled(oof, settings)
    blocks = frame["block"].rle_id().to_numpy().astype(np.int64)
    profile = Profile(
        rows=frame.height,
        blocks=int(blocks[-1]) + 1,
        block_hours=settings.window_hours,
        start=str(frame["event_timestamp"].min()),
        end=str(frame["event_timestamp"].max()),
        features=_weighted([_feature(frame, name, kind, blocks) for name, kind in columns.items()]),
        score=_feature(frame, "score", "numeric", blocks)[0],
        performance=_performance(frame, label, blocks, settings.pooled_days),
    )
    return asdict(profile)


def _settled(oof: pl.DataFrame, settings: MonitoringSettings) -> pl.DataFrame:
    """Return the rows after the warm-up, in blocks that are large enough, ordered by time."""
    at = pl.col("event_timestamp")
    frame = (
        oof.sort("event_timestamp")
        .with_columns(at.dt.truncate(f"{settings.window_hours}h").alias("block"))
        .filter(at >= at.min() + timedelta(days=settings.warmup_days))
        .filter(pl.len().over("block") >= settings.min_rows)
    )
    if frame["block"].n_unique() < 2:
        raise DataError(
            f"the profile needs two blocks of {settings.window_hours} h with at least"
            f" {settings.min_rows} out-of-fold rows each after {settings.warmup_days:g} days of"
            f" warm-up, found {frame['block'].n_unique()}",
            hint="train on a longer window, or lower monitoring.min_rows",
        )
    return frame


def column_values(column: pl.Series, kind: str) -> npt.NDArray[Any]:
    """Return a column for counting: floats with NaN for null, or objects with None for null.

    Infinite numbers count as null. Numbers are rounded to 32 bits, as the log keeps them: values
    on a bin's edge would otherwise change sides between training and serving.
    """
    if kind == "category":
        text = column.cast(pl.String)
        return text.set(text == "", None).to_numpy().astype(object)
    numbers = column.cast(pl.Float32).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _check(oof: pl.DataFrame, wanted: Sequence[str], label: str) -> None:
    missing = [name for name in wanted if name not in oof.columns]
    if missing:
        raise DataError(f"the out-of-fold predictions have no column {', '.join(missing)}")
    empty = [name for name in ("score", label) if oof[name].null_count()]
    if empty:
        raise DataError(f"the out-of-fold predictions have null values in {', '.join(empty)}")


def _feature(
    frame: pl.DataFrame, name: str, kind: str, blocks: Counts
) -> tuple[FeatureProfile, float]:
    """Return a feature's profile and the share of the score's variance that its bins explain."""
    values = column_values(frame[name], kind)
    known: tuple[str, ...] = ()
    if kind == "category":
        names, counts = np.unique(values[values != None].astype(str), return_counts=True)  # noqa: E711
        known = tuple(str(n) for n in names)
        bins = category_bins(known, counts.tolist())
    else:
        bins = numeric_bins(values)
    index = bins.index(values)
    table = np.zeros((int(blocks[-1]) + 1, len(bins)), dtype=np.int64)
    np.add.at(table, (blocks, index), 1)
    total = table.sum(axis=0)
    profile = FeatureProfile(
        name=name,
        kind="category" if kind == "category" else "numeric",
        edges=bins.edges,
        categories=bins.categories,
        known=known,
        counts=tuple(total.tolist()),
        psi_max=max(psi(total - row, row) for row in table),
        null_max=float((table[:, -1] / table.sum(axis=1)).max()),
        jump_max=_largest_jump(frame, values, kind),
        importance=0.0,
    )
    return profile, _explained(bins, index, frame["score"].to_numpy())


def _largest_jump(frame: pl.DataFrame, values: npt.NDArray[Any], kind: str) -> float:
    if kind == "category":
        return 0.0
    medians = (
        frame.select("block", pl.Series("value", values.astype(np.float64)).fill_nan(None))
        .group_by("block", maintain_order=True)
        .agg(pl.col("value").median())
    )
    step = medians["block"].diff()
    jumps = medians["value"].diff().abs().filter(step == step.min()).drop_nulls()
    largest = jumps.max()
    return float(largest) if isinstance(largest, int | float) else 0.0


def _explained(bins: Bins, index: Counts, scores: npt.NDArray[np.float64]) -> float:
    """Return the correlation ratio: variance of the bins' mean scores over the scores' variance."""
    counts = np.bincount(index, minlength=len(bins))
    means = np.bincount(index, weights=scores, minlength=len(bins)) / np.maximum(counts, 1)
    between = float(np.sum(counts * (means - scores.mean()) ** 2))
    return between / max(float(scores.var()) * len(scores), 1e-12)


def _weighted(found: Sequence[tuple[FeatureProfile, float]]) -> tuple[FeatureProfile, ...]:
    total = sum(share for _, share in found) or 1.0
    return tuple(replace(profile, importance=share / total) for profile, share in found)


def _performance(
    frame: pl.DataFrame, label: str, blocks: Counts, pool_days: int
) -> PerformanceProfile:
    from sklearn.isotonic import IsotonicRegression

    scores = frame["score"].cast(pl.Float64).to_numpy()
    labels = frame[label].cast(pl.Float64).to_numpy()
    isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    calibration = (
        tuple(isotonic.X_thresholds_.tolist()),
        tuple(isotonic.y_thresholds_.tolist()),
    )
    edges = np.searchsorted(blocks, np.arange(int(blocks[-1]) + 2))
    pools = [
        gaps(labels[start:end], scores[start:end], calibration)
        for start, end in zip(edges[:-pool_days], edges[pool_days:], strict=True)
        if 0 < labels[start:end].mean() < 1
    ]
    table = np.asarray(pools, dtype=np.float64).reshape(-1, 3)
    mean, sd = (table.mean(0), table.std(0)) if pools else (np.zeros(3), np.zeros(3))
    return PerformanceProfile(
        calibration=calibration,
        pool_days=pool_days,
        pools=len(pools),
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        auc=auc(labels, scores),
        logloss=expected_logloss(scores, labels),
        rate=float(labels.mean()),
    )
