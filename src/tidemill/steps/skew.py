"""T3: compare the features that were served with those recomputed offline for the same instant."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from tidemill.bundle import FeatureView, Manifest
from tidemill.steps.recompute import Tables

__all__ = ["skewed"]

TOLERANCE = 1e-4
"""Largest relative difference of two equal values: the log keeps 32-bit floats."""
AS_OF = "features_as_of"
ROW = "__row"


def skewed(log: pl.DataFrame, manifest: Manifest, tables: Tables) -> dict[str, tuple[int, int]]:
    """Return for each looked-up feature the rows compared, and how many differ.

    `log` holds logged predictions, null where an input fell back to a default; `tables` computes
    the truth. Neither rows without a lookup nor what the log may not hold (`Manifest.pii`) is
    compared. Two nulls are equal. Raises what `tables` raises, and polars' errors when a table does
    not fit its view.
    """
    if AS_OF not in log.columns:
        return {}
    served = log.filter(pl.col(AS_OF).is_not_null()).with_row_index(ROW)
    if served.is_empty():
        return {}
    inputs = {
        c.name for c in manifest.inputs if c.origin == "feature" and c.name not in manifest.pii
    }
    oldest = timedelta(seconds=max((v.ttl_seconds for v in manifest.features.views), default=0))
    span = served.select(pl.col(AS_OF).min().alias("first"), pl.col(AS_OF).max().alias("last"))
    history = tables(span["first"][0] - oldest, span["last"][0])
    found: dict[str, tuple[int, int]] = {}
    for view in manifest.features.views:
        names = [f.name for f in view.fields if f.name in inputs and f.name in served.columns]
        if names and set(view.join_keys) <= set(served.columns) - manifest.pii.keys():
            truth = _known(served, view, names, history[view.name])
            found |= {name: (served.height, _differ(served[name], truth[name])) for name in names}
    return found


def _known(
    served: pl.DataFrame, view: FeatureView, names: list[str], history: pl.DataFrame
) -> pl.DataFrame:
    """Return the view's values as known at each row's watermark, in the rows' order."""
    keys = [pl.col(key).cast(pl.String) for key in view.join_keys]
    history = history.with_columns(keys).sort("event_timestamp")
    if "created" in history.columns:
        history = history.sort("event_timestamp", "created")
    parts = []
    for (as_of,), rows in served.with_columns(keys).group_by(AS_OF):
        known = history.filter(pl.col("event_timestamp") <= as_of)
        if "created" in history.columns:
            known = known.filter(pl.col("created") <= as_of)
        newest = known.unique(view.join_keys, keep="last", maintain_order=True)
        asked = rows.select(ROW, "at", *view.join_keys)
        values = newest.select(*view.join_keys, "event_timestamp", *names)
        parts.append(asked.join(values, on=view.join_keys, how="left"))
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
