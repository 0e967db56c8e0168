"""The model card: what the model is, how good, on which rows, and where it is weak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidemill.bundle import Manifest
from tidemill.steps.record import TrainingRecord

__all__ = ["model_card"]

FIGURES = ("auc", "logloss", "brier", "ece", "bias", "calibration_slope")
WEAKEST = 3
"""Slices named per column."""


def model_card(
    manifest: Manifest,
    record: TrainingRecord,
    evaluation: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> str:
    """Return the card in Markdown; every number comes from the documents of this very bundle."""
    sections = [
        f"# {manifest.name}",
        _summary(manifest, record),
        "## How good it is",
        _performance(evaluation),
        "## Where it is weakest",
        _weakest(evaluation["slices"]),
        "## Gates",
        _gates(evidence),
        "## Inputs",
        _inputs(manifest, record),
        "## Limits",
        _limits(record, evaluation),
        "## Lineage",
        _table(("key", "value"), sorted(manifest.lineage.items())),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(manifest: Manifest, record: TrainingRecord) -> str:
    split, settings = record.split, record.settings
    return (
        f"Probability that `{settings.label}` is 1. A perceptron {settings.hidden} with "
        f"embeddings, trained on {record.rows['train']:,} rows from {split.start:%Y-%m-%d} up to "
        f"{split.validation:%Y-%m-%d}, of which {record.prior:.1%} are events. The "
        f"{record.rows['validation']:,} rows up to {split.test:%Y-%m-%d} stopped the training; the "
        f"weights are those of epoch {record.best_epoch} of {len(record.epochs)}. Features: "
        f"service `{manifest.features.name}`, {manifest.features.digest[:19]}…"
    )


def _performance(evaluation: Mapping[str, Any]) -> str:
    test = evaluation["test"]
    rows = [
        (name, *(_number(figures[f]) for f in FIGURES))
        for name, figures in evaluation["models"].items()
    ]
    parity = evaluation["parity"]
    return (
        f"On {test['rows']:,} held-out rows ({test['events']:,} events) from {test['start'][:10]} "
        f"up to {test['end'][:10]}, all models on the same rows:\n\n"
        + _table(("model", *FIGURES), rows)
        + f"\n\nONNX Runtime equals torch within {parity['parity_max_abs']:.1e} on "
        f"{parity['parity_rows']:,.0f} held-out rows and {parity['parity_edges']:.0f} edge rows."
    )


def _weakest(slices: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = []
    for column, values in slices.items():
        known = [(v, f) for v, f in values.items() if f["auc"] is not None]
        for value, figures in sorted(known, key=lambda item: item[1]["auc"])[:WEAKEST]:
            rows.append((column, value, figures["rows"], _number(figures["auc"]),
                         _number(figures["bias"])))  # fmt: skip
    return _table(("column", "value", "rows", "auc", "bias"), rows)


def _gates(evidence: Mapping[str, Any]) -> str:
    rows = [(v["gate"], v["status"], v["sentence"]) for v in evidence["verdicts"]]
    forced = evidence["override"]
    note = f"**Released against its gates: {forced['reason']}**\n\n" if forced else ""
    return note + _table(("gate", "status", "why"), rows)


def _inputs(manifest: Manifest, record: TrainingRecord) -> str:
    encodings = {item.name: item.encoding for item in record.settings.inputs}
    rows = [
        (c.name, c.datatype, c.origin, encodings.get(c.name, "subtracted")) for c in manifest.inputs
    ]
    return _table(("column", "type", "origin", "encoding"), rows)


def _limits(record: TrainingRecord, evaluation: Mapping[str, Any]) -> str:
    bias = evaluation["models"]["model"]["bias"]
    known = ", ".join(f"{len(v)} of `{k}`" for k, v in record.vocabularies.items()) or "none"
    return (
        f"- Scores are frequencies of the training period: mean score minus event rate was "
        f"{bias:+.3f} on the test rows, and moves with the event rate.\n"
        f"- Known categories: {known}; every other value shares one row.\n"
        f"- It did not learn from {record.split.validation:%Y-%m-%d} or later."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
