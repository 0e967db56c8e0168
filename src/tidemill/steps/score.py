"""Score a period in batch: one registered model, its rows joined with features beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from tidemill.bundle import digest, read_manifest
from tidemill.errors import IntegrityError
from tidemill.files import place
from tidemill.steps.formats import read_parquet, to_parquet
from tidemill.steps.scoring import OnnxModel
from tidemill.steps.training_set import pinned_service

__all__ = ["score"]


def score(bundle: Path, rows: Path, out: Path, *, about: Mapping[str, str]) -> int:
    """Write the score of every row as Parquet to `out`; return how many.

    Columns: the row's id (null where the model names none), `event_timestamp`, `score` (Float32,
    in [0, 1]). The file's metadata holds `about` and the bundle's digest, each key with the prefix
    `tidemill.`. Raises IntegrityError when the rows were joined with another definition of the
    features than the model was trained with, or a score is no probability; DataError for rows that
    cannot be read, Unavailable when the file cannot be written.
    """
    manifest = read_manifest(bundle)
    joined_with = pinned_service(rows).digest
    if joined_with != manifest.features.digest:
        raise IntegrityError(
            f"the rows were joined with {joined_with}, the model with {manifest.features.digest}",
            hint="score with a model of this feature definition, or check out its commit",
        )
    frame = read_parquet(rows, again="tidemill run batch_scoring")
    scored = frame.select(
        pl.col(manifest.row_id) if manifest.row_id in frame.columns else pl.lit(None).alias("row"),
        "event_timestamp",
        pl.Series("score", OnnxModel(bundle / "model.onnx").score(frame), dtype=pl.Float32),
    )
    wrong = scored.filter(~pl.col("score").is_between(0, 1)).height
    if wrong:
        raise IntegrityError(
            f"{wrong} of {scored.height} scores of the bundle {bundle} are not in [0, 1]",
            hint="do not use this model; others: tidemill registry list",
        )
    facts = dict(about) | {"bundle": digest(bundle), "features": manifest.features.digest}
    place(out, to_parquet(scored, {f"tidemill.{k}": v for k, v in facts.items()}))
    return scored.height
