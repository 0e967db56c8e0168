"""The manifest: what a server must know about a model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tidemill.bundle.content import FETCH, read
from tidemill.errors import IntegrityError

__all__ = [
    "FeatureField",
    "FeatureService",
    "FeatureView",
    "InputColumn",
    "Manifest",
    "read_manifest",
    "write_manifest",
]

FORMAT = 1
PRIVATE = 2
"""Format of a manifest with `pii`: what cannot read that must not log the values in the clear."""
TREATMENTS = frozenset({"mask", "hash", "drop"})


@dataclass(frozen=True, slots=True)
class FeatureField:
    """One feature of a view: its name and Feast value type (`Float64`, `Int64`, `String`, …)."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class FeatureView:
    """A feature view as the online reader needs it."""

    name: str
    join_keys: tuple[str, ...]
    fields: tuple[FeatureField, ...]
    ttl_seconds: int
    """0 means that values never expire."""


@dataclass(frozen=True, slots=True)
class FeatureService:
    """The pinned feature service: a model is served by the definition it was trained with."""

    name: str
    project: str
    digest: str
    """`sha256:` of the resolved definition: per view name, fields, ttl, join keys, source."""
    views: tuple[FeatureView, ...]


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One raw input of the ONNX graph, `[N]`, or `[N, width]` where it is a vector."""

    name: str
    datatype: str
    """Open Inference Protocol datatype: `BYTES` for categories, `FP32` for numbers."""
    origin: str
    """`request` or `feature`."""
    default: float | str | None = None
    """Used when a feature is missing: None is NaN (numbers) or the empty string (categories)."""
    width: int = 1
    """Numbers per row; above 1 for FP32 of the request alone: a vector is no feature of a view."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a server must know about a model."""

    name: str
    inputs: tuple[InputColumn, ...]
    output: str
    """Name of the graph's output: probability of the event, FP32, `[N]`."""
    row_id: str
    """Optional request column (BYTES) that identifies a row in the prediction log."""
    features: FeatureService
    prior: float
    """Share of the event in training: the last fallback score."""
    lineage: dict[str, str] = field(default_factory=dict)
    """data_version, feature_digest, git_commit, run_id, trained_as_of, window_start, window_end,
    seed."""
    pii: dict[str, str] = field(default_factory=dict)
    """Inputs and join keys whose values the prediction log must not hold → `mask`, `hash`, `drop`
    (`settings.contract.ColumnContract.log`)."""

    @property
    def format(self) -> int:
        """1, which every version reads, or 2."""
        return PRIVATE if self.pii else FORMAT

    def of_type(self, datatype: str) -> tuple[str, ...]:
        """Names of the inputs of one datatype, in the manifest's order."""
        return tuple(column.name for column in self.inputs if column.datatype == datatype)

    @property
    def lanes(self) -> dict[str, slice]:
        """Where each FP32 input lies in a matrix of all numbers, `[lanes, N]`."""
        found: dict[str, slice] = {}
        end = 0
        for column in self.inputs:
            if column.datatype == "FP32":
                found[column.name] = slice(end, end + column.width)
                end += column.width
        return found

    @property
    def entities(self) -> tuple[str, ...]:
        """Join keys that the request must carry for the online lookup, sorted."""
        return tuple(sorted({key for view in self.features.views for key in view.join_keys}))


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `manifest.json` into a bundle."""
    path = folder / "manifest.json"
    body = asdict(manifest) | {"format": manifest.format}
    if not manifest.pii:
        del body["pii"]
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; raises IntegrityError when it is absent or malformed.

    Raises Unavailable when it, or the folder, cannot be read.
    """
    try:
        content = read(folder, "manifest.json")
        if content is None:
            raise ValueError("there is none")
        return _manifest(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder} is no model bundle: manifest.json cannot be read ({error})",
            hint=FETCH,
        ) from error


def _manifest(body: dict[str, Any]) -> Manifest:
    if body["format"] not in (FORMAT, PRIVATE):
        raise ValueError(f"format {body['format']}, this version reads {FORMAT} and {PRIVATE}")
    pii = dict(body.get("pii", {}))
    if unknown := set(pii.values()) - TREATMENTS:
        raise ValueError(f"pii: {sorted(unknown)}, known: {sorted(TREATMENTS)}")
    service = body["features"]
    views = tuple(
        FeatureView(
            view["name"],
            tuple(view["join_keys"]),
            tuple(FeatureField(**f) for f in view["fields"]),
            view["ttl_seconds"],
        )
        for view in service["views"]
    )
    return Manifest(
        name=body["name"],
        inputs=tuple(InputColumn(**column) for column in body["inputs"]),
        output=body["output"],
        row_id=body["row_id"],
        features=FeatureService(service["name"], service["project"], service["digest"], views),
        prior=body["prior"],
        lineage=body["lineage"],
        pii=pii,
    )
