"""Assemble the bundle: everything that a release is, in one folder (see `tidemill.bundle`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from tidemill.bundle import WARM_UP, FeatureService, InputColumn, Manifest, write_manifest
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.card import model_card
from tidemill.steps.gate import check_evidence
from tidemill.steps.inputs import OUTPUT, raw_columns
from tidemill.steps.private import private_columns
from tidemill.steps.profile import build_profile
from tidemill.steps.record import TrainingRecord, read_record

__all__ = ["package"]

WARM_UP_ROWS = (1, 32)
"""Rows of the requests that a server is warmed up with."""


def package(
    trained: Path,
    exported: Path,
    evaluated: Path,
    gated: Path,
    out: Path,
    *,
    name: str,
    row_id: str,
    features: FeatureService,
    lineage: Mapping[str, str],
    monitoring: MonitoringSettings,
    pii: Mapping[str, str],
) -> Manifest:
    """Write the unsigned bundle of a gated model into the folder `out`, replacing what is there.

    `lineage` brings what training cannot know: data_version, git_commit, run_id. `pii` are the
    contract's private columns (`Contract.pii`): nothing of their values is written. Raises
    IntegrityError when the evidence was changed, or belongs to another model or evaluation, and
    Refused when a gate did not pass and nobody overrode it.
    """
    record = read_record(trained)
    onnx, evaluation = exported / "model.onnx", evaluated / "evaluation.json"
    evidence = check_evidence(gated, {"model_sha256": onnx, "evaluation_sha256": evaluation})
    manifest = Manifest(
        name=name,
        inputs=raw_columns(record.settings.inputs),
        output=OUTPUT,
        row_id=row_id,
        features=features,
        prior=record.prior,
        lineage={**lineage, **_lineage(record), "feature_digest": features.digest},
    )
    manifest = replace(manifest, pii=private_columns(pii, manifest))
    oof = pl.read_parquet(trained / "oof.parquet").drop(manifest.pii, strict=False)
    label = record.settings.label
    shown = [column for column in manifest.inputs if column.name not in manifest.pii]
    profile = build_profile(oof, shown, monitoring, label=label)
    fresh = out.with_name(f".{out.name}.writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copyfile(onnx, fresh / "model.onnx")
    shutil.copyfile(evaluation, fresh / "evaluation.json")
    shutil.copyfile(gated / "evidence.json", fresh / "evidence.json")
    write_manifest(fresh, manifest)
    (fresh / "profile.json").write_text(json.dumps(profile, sort_keys=True) + "\n")
    _sample(oof, monitoring.report_rows, record.settings.seed).write_parquet(
        fresh / "reference.parquet"
    )
    requests = [
        _request(_sample(oof, rows, record.settings.seed), manifest.inputs) for rows in WARM_UP_ROWS
    ]
    (fresh / WARM_UP).write_text(json.dumps(requests, allow_nan=False) + "\n")
    card = model_card(manifest, record, json.loads(evaluation.read_text()), evidence)
    (fresh / "MODEL_CARD.md").write_text(card)
    shutil.rmtree(out, ignore_errors=True)
    fresh.replace(out)
    return manifest


def _lineage(record: TrainingRecord) -> dict[str, str]:
    return {
        "trained_as_of": record.as_of.isoformat(),
        "window_start": record.split.start.isoformat(),
        "window_end": record.split.end.isoformat(),
        "seed": str(record.settings.seed),
        "training_set_sha256": record.split.data_sha256,
    }


def _sample(oof: pl.DataFrame, rows: int, seed: int) -> pl.DataFrame:
    """Return at most `rows` rows, drawn evenly, in their order."""
    if oof.height <= rows:
        return oof
    return oof.with_row_index("_").sample(rows, seed=seed).sort("_").drop("_")


def _request(rows: pl.DataFrame, columns: Sequence[InputColumn]) -> dict[str, Any]:
    """Return rows as a request of the Open Inference Protocol, in which null is missing.

    A column that the rows lack, a private one, is missing in all of them.
    """
    return {
        "inputs": [
            {
                "name": column.name,
                "datatype": column.datatype,
                "shape": [rows.height],
                "data": _values(rows, column),
            }
            for column in columns
        ]
    }


def _values(rows: pl.DataFrame, column: InputColumn) -> list[Any]:
    if column.name not in rows.columns:
        return [None] * rows.height
    values = rows[column.name]
    if column.datatype == "FP32":
        values = values.cast(pl.Float32).fill_nan(None)
    return values.to_list()
