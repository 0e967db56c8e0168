"""Assemble the bundle: everything that a release is, in one folder (see `tidemill.bundle`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tidemill.bundle import WARM_UP, FeatureService, Manifest, write_golden, write_manifest
from tidemill.files import placing
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.card import model_card
from tidemill.steps.formats import read_json, read_parquet, to_parquet
from tidemill.steps.gate import check_evidence
from tidemill.steps.golden import golden_rows
from tidemill.steps.inputs import OUTPUT, raw_columns
from tidemill.steps.periods import read_training_set
from tidemill.steps.private import private_columns
from tidemill.steps.profile import build_profile
from tidemill.steps.record import TrainingRecord, read_record
from tidemill.steps.requests import request, sample

__all__ = ["package"]

WARM_UP_ROWS = (1, 32)
"""Rows of the requests that a server is warmed up with."""


def package(
    training_set: Path,
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
    contract's private columns (`Contract.pii`): nothing of their values is written. `training_set`
    is what `trained` was trained with: its test rows become golden ones. Raises
    IntegrityError when the evidence was changed, or belongs to another model or evaluation, and
    Refused when a gate did not pass and nobody overrode it, or the model gives a test row no
    number, DataError for a file that cannot be read, Unavailable for a bundle that cannot be
    written; then `out` is what it was.
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
    oof = read_parquet(trained / "oof.parquet", again="tidemill model train")
    oof = oof.drop(manifest.pii, strict=False)
    label = record.settings.label
    shown = [column for column in manifest.inputs if column.name not in manifest.pii]
    profile = build_profile(oof, shown, monitoring, label=label)
    seed = record.settings.seed
    reference = to_parquet(sample(oof, monitoring.report_rows, seed))
    requests = [request(sample(oof, rows, seed), manifest.inputs) for rows in WARM_UP_ROWS]
    held_out = record.split.test_rows(read_training_set(training_set, record.settings))
    bounds = evidence["settings"]["thresholds"]
    golden = golden_rows(held_out, onnx, manifest, bounds, seed=seed)
    figures = read_json(evaluation, again="tidemill model evaluate")
    with placing(out) as fresh:
        for file in (onnx, evaluation, gated / "evidence.json"):
            shutil.copyfile(file, fresh / file.name)
        write_manifest(fresh, manifest)
        (fresh / "profile.json").write_text(json.dumps(profile, sort_keys=True) + "\n")
        (fresh / "reference.parquet").write_bytes(reference)
        (fresh / WARM_UP).write_text(json.dumps(requests, allow_nan=False) + "\n")
        write_golden(fresh, golden)
        (fresh / "MODEL_CARD.md").write_text(model_card(manifest, record, figures, evidence))
    return manifest


def _lineage(record: TrainingRecord) -> dict[str, str]:
    return {
        "trained_as_of": record.as_of.isoformat(),
        "window_start": record.split.start.isoformat(),
        "window_end": record.split.end.isoformat(),
        "seed": str(record.settings.seed),
        "training_set_sha256": record.split.data_sha256,
    }
