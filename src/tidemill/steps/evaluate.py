"""Measure the exported model, the baselines and the champion on the same held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import structlog
from numpy.typing import NDArray

from tidemill.bundle import digest, read_manifest
from tidemill.domain.metrics import measure
from tidemill.files import place
from tidemill.ports.tracking import Tracker
from tidemill.steps.formats import read_parquet, to_json, to_parquet
from tidemill.steps.parity import read_parity
from tidemill.steps.periods import TIME, read_training_set
from tidemill.steps.record import TrainingRecord, read_record
from tidemill.steps.scoring import OnnxModel

__all__ = ["evaluate"]

log = structlog.get_logger(__name__)

Scores = NDArray[np.float32]
Figures = dict[str, float | None]


def evaluate(
    training_set: Path,
    trained: Path,
    exported: Path,
    baselines: Path,
    out: Path,
    *,
    slices: Sequence[str],
    champion: Path | None,
    unknown: str = "",
    tracker: Tracker,
) -> dict[str, Any]:
    """Write `evaluation.json` (figures) and `scores.parquet` (every model's scores) into `out`.

    All models are measured on the test period of `trained`; model and champion by ONNX Runtime.
    `champion` is the folder of the bundle in use, None when there is none; `unknown` says
    why that could not be found out, and the gate then does not pass. Slicing columns are columns of
    the training set. Raises DataError when the champion reads a column that it lacks or a file
    cannot be read, Unavailable when one cannot be written.
    """
    record = read_record(trained)
    rows = record.split.test_rows(read_training_set(training_set, record.settings))
    label = rows[record.settings.label].cast(pl.Float32).to_numpy()
    scores = {"model": OnnxModel(exported / "model.onnx").score(rows)}
    baseline = read_parquet(baselines / "baselines.parquet", again="tidemill model train")
    scores |= {column.name: column.to_numpy() for column in baseline}
    if champion is not None:
        scores["champion"] = OnnxModel(champion / "model.onnx").score(rows)
    evaluation = {
        "data_sha256": record.split.data_sha256,
        "test": _period(record, rows),
        "models": {name: _plain(measure(score, label)) for name, score in scores.items()},
        "parity": read_parity(exported).metrics(),
        "slices": {column: _slices(rows[column], scores["model"], label) for column in slices},
        "champion": _identity(champion, unknown),
    }
    scored = rows.select(TIME, pl.lit(label).alias("label")).with_columns(
        **{name: pl.Series(score) for name, score in scores.items()}
    )
    place(out / "scores.parquet", to_parquet(scored))
    place(out / "evaluation.json", to_json(evaluation))
    _track(evaluation, tracker)
    return evaluation


def _period(record: TrainingRecord, rows: pl.DataFrame) -> dict[str, Any]:
    return {
        "start": record.split.test.isoformat(),
        "end": record.split.end.isoformat(),
        "rows": rows.height,
        "events": int(rows[record.settings.label].sum()),
    }


def _slices(column: pl.Series, score: Scores, label: Scores) -> dict[str, Figures]:
    text = column.cast(pl.String).fill_null("").to_numpy()
    found = {}
    for value in np.unique(text):
        inside = text == value
        figures = _plain(measure(score[inside], label[inside]))
        found[str(value)] = {
            "rows": int(inside.sum()),
            "events": int(label[inside].sum()),
        } | figures
    return found


def _identity(bundle: Path | None, unknown: str) -> dict[str, str] | None:
    if bundle is None:
        return {"unknown": unknown} if unknown else None
    lineage = read_manifest(bundle).lineage
    return {"digest": digest(bundle), "trained_as_of": lineage.get("trained_as_of", "")}


def _plain(figures: Mapping[str, float]) -> Figures:
    """Replace what is not a number, as JSON has no word for it."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _track(evaluation: Mapping[str, Any], tracker: Tracker) -> None:
    metrics = dict(evaluation["models"]["model"])
    for column, values in evaluation["slices"].items():
        for value, figures in values.items():
            slice_ = f"slice/{column}/{value or 'null'}"
            metrics |= {f"{slice_}/{name}": figures[name] for name in ("rows", "auc")}
    tracker.log_metrics({name: value for name, value in metrics.items() if value is not None})
    for name, figures in evaluation["models"].items():
        log.info("evaluated", name=name, auc=figures["auc"], logloss=figures["logloss"])
