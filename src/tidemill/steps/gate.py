"""Hold a candidate against every gate and keep the verdicts as one hashed document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import structlog

from tidemill.domain.bootstrap import block_means
from tidemill.domain.gates import (
    SliceFigures,
    Verdict,
    beats,
    enough_rows,
    judge_slices,
    no_champion,
    non_inferior,
    passed,
    within,
)
from tidemill.domain.metrics import log_losses
from tidemill.errors import IntegrityError, Refused
from tidemill.files import place
from tidemill.ports.tracking import Tracker
from tidemill.settings.model import GateSettings
from tidemill.steps.formats import read_json, read_parquet, readable, to_json
from tidemill.steps.periods import TIME

__all__ = ["check_evidence", "gate", "judge", "read_evidence", "seal"]

log = structlog.get_logger(__name__)

SEED = 7
"""Seed of the bootstrap: the same scores always get the same verdict."""
EVALUATE = "tidemill model evaluate"


def gate(
    evaluated: Path,
    exported: Path,
    out: Path,
    settings: GateSettings,
    *,
    tracker: Tracker,
    override: str = "",
) -> dict[str, Any]:
    """Judge an evaluation, write `evidence.json` into `out`, and return it.

    Raises Refused when a gate did not pass, after the evidence is written; DataError for a file
    that cannot be read, Unavailable for evidence that cannot be written. A reason in `override`
    lets the candidate through all the same; evidence and tags then say so.
    """
    evaluation = read_json(evaluated / "evaluation.json", again=EVALUATE)
    verdicts = judge(
        evaluation, read_parquet(evaluated / "scores.parquet", again=EVALUATE), settings
    )
    good = passed(verdicts)
    evidence = seal(
        {
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "passed": good,
            "override": {"reason": override} if override and not good else None,
            "model_sha256": _file_sha256(exported / "model.onnx"),
            "evaluation_sha256": _file_sha256(evaluated / "evaluation.json"),
            "settings": settings.model_dump(mode="json"),
        }
    )
    place(out / "evidence.json", to_json(evidence))
    outcome = "passed" if good else "overridden" if override else "failed"
    tracker.set_tags({"gate": outcome, "evidence": evidence["sha256"]})
    for verdict in verdicts:
        log.info("gate", name=verdict.gate, status=verdict.status, why=verdict.sentence)
    if outcome == "failed":
        _refuse(verdicts, out / "evidence.json")
    return evidence


def judge(
    evaluation: Mapping[str, Any], scores: pl.DataFrame, settings: GateSettings
) -> list[Verdict]:
    """Return the verdict of every configured gate."""
    return list(_verdicts(evaluation, scores, settings))


def _verdicts(
    evaluation: Mapping[str, Any], scores: pl.DataFrame, settings: GateSettings
) -> Iterator[Verdict]:
    models = evaluation["models"]
    measured = {**models["model"], **evaluation["parity"]}
    for metric, bound in sorted(settings.thresholds.items()):
        yield within(metric, bound, measured.get(metric))
    yield enough_rows(measured.get("parity_rows"), measured.get("parity_asked"))
    for name in settings.beat_baselines:
        yield beats(name, measured.get("logloss"), models.get(name, {}).get("logloss"))
    if "champion" in scores.columns:
        yield _against_champion(scores, settings)
    elif evaluation["champion"] is None:
        yield no_champion()
    else:
        reason = evaluation["champion"].get("unknown", "the champion's scores are missing")
        yield Verdict("champion", "not_evaluable", reason)
    for column in settings.slices:
        found = evaluation["slices"].get(column, {})
        figures = [
            SliceFigures(v, f["rows"], f["events"], float("nan") if f["auc"] is None else f["auc"])
            for v, f in found.items()
        ]
        yield judge_slices(column, figures, settings.slice_min_rows, settings.slice_min_auc)


def _against_champion(scores: pl.DataFrame, settings: GateSettings) -> Verdict:
    label = scores["label"].to_numpy()
    difference = log_losses(scores["model"].to_numpy(), label) - log_losses(
        scores["champion"].to_numpy(), label
    )
    day = scores[TIME].dt.epoch("d").to_numpy()
    means = block_means(difference, day, settings.bootstrap_samples, SEED)
    return non_inferior(
        means,
        float(difference.mean()),
        len(np.unique(day)),
        settings.non_inferiority_margin,
        settings.non_inferiority_level,
    )


def seal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body` with `sha256`, the hash of its canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**body, "sha256": "sha256:" + hashlib.sha256(text.encode()).hexdigest()}


def read_evidence(folder: Path) -> dict[str, Any]:
    """Read `evidence.json`; raises DataError, and IntegrityError when it is not what was sealed."""
    path = folder / "evidence.json"
    evidence = read_json(path, again="tidemill model gate")
    stated = evidence.pop("sha256", None)
    sealed = seal(evidence)
    if sealed["sha256"] != stated:
        raise IntegrityError(
            f"{path} was changed after it was sealed: hash {stated}", hint="run the gate step again"
        )
    return sealed


def check_evidence(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Read the evidence of a candidate that may be released.

    `files` are what it must be about, by the key of their hash. Raises IntegrityError when it was
    changed or is about other files, Refused when a gate did not pass and nobody overrode it.
    """
    evidence = read_evidence(folder)
    for key, path in files.items():
        if evidence[key] != _file_sha256(path):
            raise IntegrityError(
                f"the evidence in {folder} is about another {path.name} than {path}",
                hint="run the gate step again on this evaluation",
            )
    if not evidence["passed"] and not evidence["override"]:
        raise Refused(
            f"the evidence in {folder} says that the candidate did not pass its gates",
            hint="train a better one, or state a reason: tidemill model gate --force REASON",
        )
    return evidence


def _refuse(verdicts: list[Verdict], evidence: Path) -> None:
    bad = [verdict for verdict in verdicts if verdict.status != "pass"]
    lines = "".join(f"\n  - {v.gate}: {v.status}: {v.sentence}" for v in bad)
    raise Refused(
        f"{len(bad)} of {len(verdicts)} gates did not pass:{lines}",
        hint=f"all of the evidence: {evidence}; release it anyway only with a stated reason",
    )


def _file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; raises DataError."""
    with readable(path, again="tidemill model export, then evaluate"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
