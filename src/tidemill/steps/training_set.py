"""The training set: every event whose label is known, with its features as known when scored.

The file carries the feature service it was joined with in its own metadata, so that training pins
the very definition without opening Feast.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter, ValidationError

from tidemill.bundle import FeatureService
from tidemill.errors import DataError
from tidemill.ports.features import FeatureSource

__all__ = ["SERVICE", "TrainingSet", "pinned_service", "training_set"]

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
    spine = _labelled(features / "spine.parquet", label, as_of, start)
    joined = source.join(service, spine, features)
    pinned = source.resolve(service)
    buffer = io.BytesIO()
    joined.write_parquet(buffer, metadata={SERVICE: json.dumps(asdict(pinned), sort_keys=True)})
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}")
    fresh.write_bytes(buffer.getvalue())
    fresh.replace(out)
    at = joined["event_timestamp"].dt.to_string("iso:strict")
    return TrainingSet(joined.height, int(joined[label].sum()), at[0], at[-1], pinned.digest)


def pinned_service(path: Path) -> FeatureService:
    """Return the feature service that a training set was joined with; raises DataError."""
    try:
        return TypeAdapter(FeatureService).validate_json(pl.read_parquet_metadata(path)[SERVICE])
    except (OSError, KeyError, ValidationError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} does not say which feature service it holds ({error!r})",
            hint="build it with tidemill: tidemill run training",
        ) from error


def _labelled(path: Path, label: str, as_of: datetime, start: datetime | None) -> pl.DataFrame:
    try:
        rows = pl.scan_parquet(path)
        rows = rows.filter(
            pl.col(label).is_not_null(),
            pl.col("label_at") <= as_of,
            pl.col("event_timestamp") <= as_of,
        )
        if start is not None:
            rows = rows.filter(pl.col("event_timestamp") >= start)
        spine = rows.sort("event_timestamp", maintain_order=True).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the spine {path} cannot be read: {error}",
            hint="compute the feature tables: tidemill features build",
        ) from error
    if spine.is_empty():
        raise DataError(
            f"no row of {path} has a label known at {as_of.isoformat()}",
            hint="widen the training window, or wait until labels have arrived",
        )
    return spine
