"""The scoring set: every event of a period, with its features as known when scored."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import polars as pl

from tidemill.errors import DataError
from tidemill.ports.features import FeatureSource
from tidemill.steps.training_set import SERVICE

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
    try:
        spine = (
            pl.scan_parquet(features / "spine.parquet")
            .filter(pl.col("event_timestamp").is_between(start, end, closed="left"))
            .drop(label, "label_at")
            .sort("event_timestamp", maintain_order=True)
            .collect()
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the spine in {features} cannot be read: {error}",
            hint="compute the feature tables: tidemill features build",
        ) from error
    if spine.is_empty():
        raise DataError(
            f"no event is predicted from {start.isoformat()} to {end.isoformat()}",
            hint="is the period within the months of the data version?",
        )
    joined = source.join(service, spine, features)
    pinned = json.dumps(asdict(source.resolve(service)), sort_keys=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    joined.write_parquet(out, metadata={SERVICE: pinned})
    return joined.height
