"""T3: compare the features that were served with those recomputed offline for the same instant."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl

from tidemill.bundle import FeatureView, Manifest

__all__ = ["skewed"]

TOLERANCE = 1e-4
"""Largest relative difference of two equal values: the log keeps 32-bit floats."""
AS_OF = "features_as_of"
ROW = "__row"


def skewed(log: pl.DataFrame, manifest: Manifest, tables: Path) -> dict[str, tuple[int, int]]:
    """Return for each looked-up feature the rows compared, and how many differ.

    `log` holds logged predictions, `tables` the feature tables `<view>.parquet`. Rows without a
    lookup are not compared. A feature counts as equal when both values are null. Raises
    FileNotFoundError when a view's table is missing.
    """
    if AS_OF not in log.columns:
        return {}
    served = log.filter(pl.col(AS_OF).is_not_null()).with_row_index(ROW)
    wanted = {column.name for column in manifest.inputs if column.origin == "feature"}
    found: dict[str, tuple[int, int]] = {}
    for view in manifest.features.views:
        names = [f.name for f in view.fields if f.name in wanted and f.name in served.columns]
        keys = [key for key in view.join_keys if key in served.columns]
        if names and len(keys) == len(view.join_keys) and not served.is_empty():
            truth = _known(served, view, names, tables / f"{view.name}.parquet")
            found |= {name: (served.height, _differ(served[name], truth[name])) for name in names}
    return found


def _known(served: pl.DataFrame, view: FeatureView, names: list[str], table: Path) -> pl.DataFrame:
    """Return the view's values as known at each row's watermark, in the rows' order."""
    keys = [pl.col(key).cast(pl.String) for key in view.join_keys]
    history = pl.read_parquet(table).with_columns(keys)
    parts = []
    for (as_of,), rows in served.with_columns(keys).group_by(AS_OF):
        known = history.filter(pl.col("event_timestamp") <= as_of)
        if "created" in history.columns:
            known = known.filter(pl.col("created") <= as_of).sort("event_timestamp", "created")
        else:
            known = known.sort("event_timestamp")
        newest = known.unique(view.join_keys, keep="last").select(
            *view.join_keys, "event_timestamp", *names
        )
        parts.append(
            rows.select(ROW, "at", *view.join_keys).join(newest, on=view.join_keys, how="left")
        )
    joined = pl.concat(parts).sort(ROW)
    if not view.ttl_seconds:
        return joined
    fresh = pl.col("event_timestamp") + timedelta(seconds=view.ttl_seconds) >= pl.col("at")
    return joined.with_columns(pl.when(fresh).then(pl.col(name)) for name in names)


def _differ(served: pl.Series, truth: pl.Series) -> int:
    if served.dtype == pl.String or truth.dtype == pl.String:
        text = served.cast(pl.String).replace("", None)
        return int(text.ne_missing(truth.cast(pl.String)).sum())
    pair = pl.DataFrame({"a": served, "b": truth}).select(pl.all().cast(pl.Float64).fill_nan(None))
    a, b = pl.col("a"), pl.col("b")
    far = (a - b).abs() > TOLERANCE * pl.max_horizontal(b.abs(), pl.lit(1.0))
    one_null = a.is_null() != b.is_null()
    return int(pair.select((one_null | far.fill_null(value=False)).sum()).item())
