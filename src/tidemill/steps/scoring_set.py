"""The scoring set: every event of a period, with its features as known when scored."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from tidemill.errors import DataError
from tidemill.ports.features import FeatureSource
from tidemill.steps.training_set import join_features, read_spine

__all__ = ["scoring_set"]


def scoring_set(
    features: Path,
    out: Path,
    source: FeatureSource,
    *,
    service: str,
    label: str,
    start: datetime,
    end: datetime,
) -> int:
    """Join the service's features to every event predicted in [start, end); return how many.

    Labels are left out: they are not known when a score is wanted. Raises DataError when there is
    no such event.
    """
    period = pl.col("event_timestamp").is_between(start, end, closed="left")
    spine = read_spine(features, period).drop(label, "label_at", strict=False)
    if spine.is_empty():
        raise DataError(
            f"no event is predicted from {start.isoformat()} to {end.isoformat()}",
            hint="is the period within the months of the data version?",
        )
    joined, _ = join_features(spine, features, out, source, service)
    return joined.height
