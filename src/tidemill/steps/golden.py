"""Choose the golden rows of a bundle and score them: real held-out rows, and rows at the edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from tidemill.bundle import MAX_GOLDEN, Golden, InputColumn, Manifest
from tidemill.domain.criteria import BOUND
from tidemill.errors import Refused
from tidemill.steps.inputs import UNKNOWN
from tidemill.steps.requests import request, sample
from tidemill.steps.scoring import OnnxModel

__all__ = ["golden_rows"]

REAL = MAX_GOLDEN // 2
"""Held-out real rows at most."""
ABSURD = 1e6
TOLERANCE = 1e-5
"""Where no gate bounds the difference between torch and ONNX Runtime."""


def golden_rows(
    held_out: pl.DataFrame,
    onnx: Path,
    manifest: Manifest,
    thresholds: Mapping[str, str],
    *,
    seed: int,
) -> Golden:
    """Return rows with the scores that the exported model `onnx` gives them.

    `held_out` are real rows that the model did not learn from, at least one. Its private columns
    (`manifest.pii`) are missing in all rows, and are scored as missing. `thresholds` are those of
    the gates: the difference that parity allows is allowed here. Raises Refused when the model
    gives one of the real rows no number; at the edges it may.
    """
    columns = manifest.inputs
    numbers = [pl.col(c.name).cast(pl.Float32) for c in columns if c.datatype == "FP32"]
    private = [_missing(c) for c in columns if c.name in manifest.pii]
    rows = held_out.select([c.name for c in columns]).with_columns(numbers).with_columns(private)
    real = sample(rows, REAL, seed)
    edges = list(_edges(manifest).items())[: MAX_GOLDEN - real.height]
    frame = pl.concat([real, *(real.head(1).with_columns(values) for _, values in edges)])
    scores = OnnxModel(onnx).score(frame)
    if silent := int(np.isnan(scores[: real.height]).sum()):
        raise Refused(
            f"the model gives {silent} of {real.height} held-out rows no number (NaN)",
            hint="it must take missing values, as of the contract's private columns in these rows",
        )
    return Golden(
        request=request(frame, columns),
        rows=("held out",) * real.height + tuple(name for name, _ in edges),
        scores=tuple(scores.tolist()),
        tolerance=_tolerance(thresholds),
    )


def _edges(manifest: Manifest) -> dict[str, list[pl.Expr]]:
    """Return what is changed in a real row, by the name of the edge; private columns stay missing.

    What concerns all columns comes first: of a model with many inputs the last edges are left out.
    """
    shown = [column for column in manifest.inputs if column.name not in manifest.pii]
    numbers = [column.name for column in shown if column.datatype == "FP32"]
    categories = [column.name for column in shown if column.datatype == "BYTES"]
    everywhere = {
        "nothing known": [_missing(column) for column in shown],
        "every category unknown": [_unknown(name) for name in categories],
        "absurdly large numbers": [_number(name, ABSURD) for name in numbers],
        "absurdly small numbers": [_number(name, -ABSURD) for name in numbers],
    }
    one = {f"{column.name} missing": [_missing(column)] for column in shown}
    unknown = {f"{name} unknown": [_unknown(name)] for name in categories}
    return {name: values for name, values in (everywhere | unknown | one).items() if values}


def _missing(column: InputColumn) -> pl.Expr:
    dtype = pl.Float32 if column.datatype == "FP32" else pl.String
    return pl.lit(None, dtype).alias(column.name)


def _unknown(name: str) -> pl.Expr:
    return pl.lit(UNKNOWN).alias(name)


def _number(name: str, value: float) -> pl.Expr:
    return pl.lit(value, pl.Float32).alias(name)


def _tolerance(thresholds: Mapping[str, str]) -> float:
    """Return the bound that the gates put on the difference of a probability."""
    found = BOUND.match(thresholds.get("parity_max_abs", ""))
    return float(found[2]) if found and found[1] in ("<=", "<") else TOLERANCE
