"""Rows of the prediction log as Parquet; the schema is in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.bundle import Manifest
from tidemill.errors import IntegrityError

__all__ = ["Encoder", "Prediction"]

INSTANT = pa.timestamp("us", tz="UTC")
LABEL = pa.dictionary(pa.int32(), pa.string())
HEAD = {"request_id": pa.string(), "row_id": pa.string(), "at": INSTANT}
MODEL = {"model": LABEL, "version": LABEL, "revision": LABEL}
TAIL = {
    "defaulted": pa.list_(pa.string()),
    "score": pa.float32(),
    "seconds": pa.float64(),
    "trace_id": pa.string(),
}
TYPES = {"BYTES": pa.string(), "FP32": pa.float32()}


@dataclass(slots=True)
class Prediction:
    """One answered request, as the log keeps it; columns are `[rows]`."""

    request_id: str
    row_ids: Sequence[str | None] | None
    at: datetime
    columns: dict[str, NDArray[Any]]
    keys: dict[str, Sequence[Any]]
    defaulted: dict[str, NDArray[np.bool_]]
    features_as_of: datetime | None
    scores: NDArray[np.float32]
    seconds: float
    trace_id: str | None

    @property
    def rows(self) -> int:
        """Number of scored rows."""
        return len(self.scores)

    @property
    def day(self) -> date:
        """The partition."""
        return self.at.date()


class Encoder:
    """Writes predictions of one model, version and revision as Parquet."""

    def __init__(self, manifest: Manifest, labels: tuple[str, str, str]) -> None:
        self._labels = labels
        inputs = {column.name: TYPES[column.datatype] for column in manifest.inputs}
        self._numbers = [name for name, kind in inputs.items() if kind == pa.float32()]
        self._strings = [name for name in inputs if name not in self._numbers]
        self._keys = [key for key in manifest.entities if key not in inputs]
        own = {**HEAD, **MODEL, "features_as_of": INSTANT, **TAIL}
        if taken := sorted(own.keys() & (inputs.keys() | set(self._keys))):
            raise IntegrityError(f"inputs {taken} have names of the prediction log's own columns")
        self._schema = pa.schema(
            {
                **HEAD,
                **MODEL,
                "features_as_of": INSTANT,
                **inputs,
                **dict.fromkeys(self._keys, pa.string()),
                **TAIL,
            }.items()
        )

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return one Parquet file, a row per scored row, in the order of the requests."""
        counts = [p.rows for p in predictions]
        columns: dict[str, Any] = {
            "request_id": _repeat([p.request_id for p in predictions], counts),
            "row_id": _join([p.row_ids or [None] * p.rows for p in predictions]),
            "at": _repeat([p.at for p in predictions], counts),
            "features_as_of": _repeat([p.features_as_of for p in predictions], counts),
            "defaulted": [names for p in predictions for names in _defaulted(p)],
            "score": np.concatenate([p.scores for p in predictions]),
            "seconds": np.repeat([p.seconds for p in predictions], counts),
            "trace_id": _repeat([p.trace_id for p in predictions], counts),
        }
        columns |= {n: np.concatenate([p.columns[n] for p in predictions]) for n in self._numbers}
        columns |= {n: _join([p.columns[n] for p in predictions]) for n in self._strings}
        columns |= {k: _join([_text(p, k) for p in predictions]) for k in self._keys}
        for name, label in zip(MODEL, self._labels, strict=True):
            columns[name] = pa.DictionaryArray.from_arrays(np.zeros(sum(counts), np.int32), [label])
        arrays = [pa.array(columns[f.name], f.type, from_pandas=False) for f in self._schema]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, schema=self._schema), sink, compression="zstd")
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _repeat(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return [value for value, n in zip(values, counts, strict=True) for _ in range(n)]


def _join(parts: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for part in parts for value in part]


def _text(prediction: Prediction, key: str) -> list[str | None]:
    values = prediction.keys.get(key) or [None] * prediction.rows
    return [None if value is None else str(value) for value in values]


def _defaulted(prediction: Prediction) -> list[list[str]]:
    if not prediction.defaulted:
        return [[]] * prediction.rows
    return [
        [name for name, rows in prediction.defaulted.items() if rows[row]]
        for row in range(prediction.rows)
    ]
