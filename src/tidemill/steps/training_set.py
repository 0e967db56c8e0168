"""The training set: every event whose label is known, with its features as known when scored.

The file carries the feature service it was joined with in its own metadata, so that training pins
the very definition without opening Feast.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from tidemill.bundle import FeatureService
from tidemill.errors import DataError
from tidemill.ports.features import FeatureSource

__all__ = [
    "SERVICE",
    "TrainingSet",
    "join_features",
    "pinned_service",
    "read_spine",
    "training_set",
]

SERVICE = "tidemill.feature_service"
"""Key of the service in the file's metadata."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What was built."""

    rows: int
    events: int
    """Rows with label 1."""
    window_start: str
    """Prediction time of the first row, ISO 8601 UTC."""
    window_end: str
    """Prediction time of the last row, ISO 8601 UTC."""
    feature_digest: str


def training_set(
    features: Path,
    out: Path,
    source: FeatureSource,
    *,
    service: str,
    label: str,
    as_of: datetime,
    start: datetime | None = None,
) -> TrainingSet:
    """Join the service's features to the spine's rows and write them to the file `out`.

    Taken are rows whose prediction time is in [start, as_of] and whose label was known at `as_of`,
    in the order of prediction time. Raises DataError when none is left.
    """
    at, nothing = pl.col("event_timestamp"), pl.lit(value=True)
    spine = read_spine(
        features,
        pl.col(label).is_not_null(),
        pl.col("label_at") <= as_of,
        at <= as_of,
        nothing if start is None else at >= start,
    )
    if spine.is_empty():
        raise DataError(
            f"no row of the spine in {features} has a label known at {as_of.isoformat()}",
            hint="widen the training window, or wait until labels have arrived",
        )
    joined, pinned = join_features(spine, features, out, source, service)
    instants = joined["event_timestamp"].dt.to_string("iso:strict")
    events = int(joined[label].sum())
    return TrainingSet(joined.height, events, instants[0], instants[-1], pinned.digest)


def read_spine(features: Path, *wanted: pl.Expr) -> pl.DataFrame:
    """Return the spine's rows that are as wanted, in the order of prediction time."""
    try:
        rows = pl.scan_parquet(features / "spine.parquet").filter(*wanted)
        return rows.sort("event_timestamp", maintain_order=True).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the spine in {features} cannot be read: {error}",
            hint="compute the feature tables: tidemill features build",
        ) from error


def join_features(
    spine: pl.DataFrame, features: Path, out: Path, source: FeatureSource, service: str
) -> tuple[pl.DataFrame, FeatureService]:
    """Write the spine with the service's features to `out`, whole, the service in its metadata."""
    joined, pinned = source.join(service, spine, features), source.resolve(service)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}")
    joined.write_parquet(fresh, metadata={SERVICE: json.dumps(asdict(pinned), sort_keys=True)})
    fresh.replace(out)
    return joined, pinned


def pinned_service(path: Path) -> FeatureService:
    """Return the feature service that a training set was joined with; raises DataError."""
    try:
        return TypeAdapter(FeatureService).validate_json(pl.read_parquet_metadata(path)[SERVICE])
    except (OSError, KeyError, ValidationError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} does not say which feature service it holds ({error!r})",
            hint="build it with tidemill: tidemill run training",
        ) from error
