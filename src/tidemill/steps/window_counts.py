"""Counting one window's columns with the bins of the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from tidemill.domain.drift import Bins
from tidemill.domain.profile import FeatureProfile, Profile
from tidemill.domain.tiers import ColumnCounts
from tidemill.settings.contract import Contract
from tidemill.steps.profile import column_values

__all__ = ["Ranges", "count_columns", "declared_ranges"]

Ranges = Mapping[str, tuple[float | None, float | None]]


def declared_ranges(contract: Contract) -> Ranges:
    """Return the contract's ranges by column.

    Limits come from what is possible, not from the training period: limits learnt from winter
    fire all summer.
    """
    return {
        name: column.range
        for table in contract.tables.values()
        for name, column in table.columns.items()
        if column.range != (None, None)
    }


def count_columns(
    frame: pl.DataFrame, profile: Profile, ranges: Ranges
) -> list[tuple[ColumnCounts, FeatureProfile]]:
    """Count every feature of the profile; one that cannot be counted says why."""
    return [(count(frame, feature, ranges), feature) for feature in profile.features]


def count(frame: pl.DataFrame, feature: FeatureProfile, ranges: Ranges) -> ColumnCounts:
    """Count one column with its reference's bins."""
    name = feature.name
    if name not in frame.columns:
        return ColumnCounts(name, problem="is not in the log")
    numeric = feature.kind == "numeric"
    dtype = frame.schema[name]
    if dtype != pl.Null and numeric != dtype.is_numeric():
        return ColumnCounts(name, problem=f"has type {dtype}, training had a {feature.kind}")
    values = column_values(frame[name], feature.kind)
    bins = Bins(feature.edges, feature.categories, numeric=numeric).count(values)
    counted = tuple(bins.tolist())
    if not numeric:
        return ColumnCounts(name, bins=counted, unseen=_unseen(frame[name], feature))
    known = values[~np.isnan(values)]
    low, high = ranges.get(name, (None, None))
    outside = np.zeros(known.shape, dtype=bool)
    outside |= known < low if low is not None else False
    outside |= known > high if high is not None else False
    infinite = int(frame[name].is_infinite().sum()) if dtype.is_float() else 0
    return ColumnCounts(
        name,
        bins=counted,
        median=float(np.median(known)) if known.size else None,
        outside=int(outside.sum()) + infinite,
    )


def _unseen(column: pl.Series, feature: FeatureProfile) -> dict[str, int]:
    counts = column.cast(pl.String).drop_nulls().value_counts()
    names, rows = counts.get_columns()
    known = {*feature.known, ""}
    return {n: int(c) for n, c in zip(names, rows, strict=True) if n not in known}
