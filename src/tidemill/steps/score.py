"""Score a period in batch: the features as known at each prediction time, one registered model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import polars as pl

from tidemill.bundle import digest, read_manifest
from tidemill.errors import DataError, IntegrityError
from tidemill.ports.features import FeatureSource
from tidemill.steps.scoring import OnnxModel
from tidemill.steps.training_set import SERVICE, pinned_service

__all__ = ["score", "scoring_set"]


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
        raise DataError(f"the spine in {features} cannot be read: {error}") from error
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


def score(bundle: Path, rows: Path, out: Path, *, about: Mapping[str, str]) -> int:
    """Write the score of every row as Parquet to `out`; return how many.

    Columns: the row's id (null where the model names none), `event_timestamp`, `score` (Float32,
    in [0, 1]). The file's metadata holds `about` and the bundle's digest, each key with the prefix
    `tidemill.`. Raises IntegrityError when the rows were joined with another definition of the
    features than the model was trained with, or a score is no probability.
    """
    manifest = read_manifest(bundle)
    joined_with = pinned_service(rows).digest
    if joined_with != manifest.features.digest:
        raise IntegrityError(
            f"the rows were joined with {joined_with}, the model with {manifest.features.digest}",
            hint="score with a model of this feature definition, or check out its commit",
        )
    frame = pl.read_parquet(rows)
    scored = frame.select(
        pl.col(manifest.row_id) if manifest.row_id in frame.columns else pl.lit(None).alias("row"),
        "event_timestamp",
        pl.Series("score", OnnxModel(bundle / "model.onnx").score(frame), dtype=pl.Float32),
    )
    wrong = scored.filter(~pl.col("score").is_between(0, 1)).height
    if wrong:
        raise IntegrityError(f"{wrong} of {scored.height} scores are no probability")
    facts = dict(about) | {"bundle": digest(bundle), "features": manifest.features.digest}
    out.parent.mkdir(parents=True, exist_ok=True)
    scored.write_parquet(out, metadata={f"tidemill.{k}": v for k, v in facts.items()})
    return scored.height
