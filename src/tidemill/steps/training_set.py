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
from tidemill.files import place
from tidemill.ports.features import FeatureSource
from tidemill.steps.formats import readable, to_parquet

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
BUILD = "tidemill features join"


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
    """Return the spine's rows that are as wanted, by prediction time; raises DataError."""
    path = features / "spine.parquet"
    with readable(path, again="tidemill features build"):
        rows = pl.scan_parquet(path).filter(*wanted)
        return rows.sort("event_timestamp", maintain_order=True).collect()


def join_features(
    spine: pl.DataFrame, features: Path, out: Path, source: FeatureSource, service: str
) -> tuple[pl.DataFrame, FeatureService]:
    """Write the spine with the service's features to `out`, whole, the service in its metadata."""
    joined, pinned = source.join(service, spine, features), source.resolve(service)
    about = {SERVICE: json.dumps(asdict(pinned), sort_keys=True)}
    place(out, to_parquet(joined, about))
    return joined, pinned


def pinned_service(path: Path) -> FeatureService:
    """Return the feature service that a training set was joined with; raises DataError."""
    with readable(path, again=BUILD):
        metadata = pl.read_parquet_metadata(path)
    try:
        return TypeAdapter(FeatureService).validate_json(metadata[SERVICE])
    except (KeyError, ValidationError) as error:
        raise DataError(
            f"{path} does not say which feature service it holds ({error!r})",
            hint=f"build it with tidemill: {BUILD}",
        ) from error
