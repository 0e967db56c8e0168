"""Does ONNX Runtime say what torch says: on held-out real rows, and at the edges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tidemill.steps.examples import examples
from tidemill.steps.formats import readable
from tidemill.steps.inputs import UNKNOWN, category_columns, number_columns
from tidemill.steps.model import ProbabilityModel
from tidemill.steps.periods import read_training_set
from tidemill.steps.record import TrainingRecord
from tidemill.steps.scoring import OnnxModel

__all__ = ["Parity", "check_parity", "edge_rows", "read_parity"]

DECISION = 0.5


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences between ONNX Runtime and torch."""

    rows: int
    """Held-out real rows compared."""
    asked: int
    """Held-out real rows that there had to be; with fewer, the gate is not evaluable."""
    edges: int
    """Edge rows compared."""
    max_abs: float
    """Largest difference of a probability, real and edge rows; infinite if one is not a number."""
    flips: int
    """Rows on different sides of one half."""

    def metrics(self) -> dict[str, float]:
        """Return the figures under the names that gates use."""
        return {f"parity_{name}": float(value) for name, value in asdict(self).items()}


def read_parity(folder: Path) -> Parity:
    """Read `parity.json` of an export; raises DataError."""
    path = folder / "parity.json"
    with readable(path, again="tidemill model export"):
        return Parity(**json.loads(path.read_bytes()))


def check_parity(
    training_set: Path, onnx: Path, model: ProbabilityModel, record: TrainingRecord, rows: int
) -> Parity:
    """Compare on the newest `rows` rows after the training period, and on edge rows.

    The test period is compared whole; the validation period is used only if that has fewer rows.
    When both have fewer, all are compared, and the gate refuses for want of rows.
    """
    frame = read_training_set(training_set, record.settings)
    held_out = pl.concat([record.split.validation_rows(frame), record.split.test_rows(frame)])
    real = held_out.tail(max(rows, record.rows["test"]))
    edges = edge_rows(real, record)
    runtime = OnnxModel(onnx)
    theirs = runtime.score(real), _one_by_one(runtime, edges), runtime.score(edges)
    ours = _torch(model, real, record), _torch(model, edges, record), _torch(model, edges, record)
    onnx_scores, torch_scores = np.concatenate(theirs), np.concatenate(ours)
    difference = np.abs(onnx_scores.astype(np.float64) - torch_scores)
    return Parity(
        rows=real.height,
        asked=rows,
        edges=edges.height,
        max_abs=float(np.nan_to_num(difference, nan=np.inf).max()),
        flips=int(((onnx_scores >= DECISION) != (torch_scores >= DECISION)).sum()),
    )


def edge_rows(real: pl.DataFrame, record: TrainingRecord) -> pl.DataFrame:
    """Return one real row in many disguises: nothing known, one cell missing, absurd, unknown."""
    inputs = record.settings.inputs
    row = real.head(1)
    numbers, categories = number_columns(inputs), category_columns(inputs)
    changes: list[Sequence[pl.Expr]] = [
        [pl.lit(None, dtype=real.schema[n]).alias(n) for n in [*numbers, *categories]],
        [pl.lit("").alias(name) for name in categories],
        [pl.lit(UNKNOWN).alias(name) for name in categories],
        *([pl.lit(float("nan")).alias(n)] for n in numbers),
        *([pl.lit(value).alias(n)] for n in numbers for value in (-1e6, 0.0, 1e6, float("inf"))),
        *([pl.lit(UNKNOWN).alias(name)] for name in categories),
    ]
    floats = [pl.col(name).cast(pl.Float64) for name in numbers]
    return pl.concat([row.with_columns(change).with_columns(floats) for change in changes])


def _one_by_one(runtime: OnnxModel, frame: pl.DataFrame) -> NDArray[np.float32]:
    """Score every row in a batch of its own."""
    return np.concatenate([runtime.score(frame[i]) for i in range(frame.height)])


def _torch(
    model: ProbabilityModel, frame: pl.DataFrame, record: TrainingRecord
) -> NDArray[np.float32]:
    settings = record.settings
    rows = examples(frame, settings.inputs, record.vocabularies, settings.label)
    with torch.inference_mode():
        scores: NDArray[np.float32] = model(rows.numbers, rows.codes).numpy()
    return scores
