"""Rows of the prediction log as Parquet; the schema is in docs/architecture.md.

Private values are replaced here, in the log's thread: before they leave the memory, and at no cost
to an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemill.bundle import InputColumn, Manifest
from tidemill.errors import IntegrityError
from tidemill.server.redaction import Redaction
from tidemill.settings.serving import KeepRule

__all__ = ["Encoder", "Prediction"]

INSTANT = pa.timestamp("us", tz="UTC")
HEAD = {"request_id": pa.string(), "row_id": pa.string(), "at": INSTANT}
MODEL = {"model": pa.string(), "version": pa.string(), "revision": pa.string()}
TAIL = {
    "defaulted": pa.list_(pa.string()),
    "score": pa.float32(),
    "seconds": pa.float64(),
    "trace_id": pa.string(),
    "sampled": pa.bool_(),
    "sample_share": pa.float64(),
    "kept": pa.list_(pa.string()),
}
TYPES = {"BYTES": pa.string(), "FP32": pa.float32()}


@dataclass(slots=True)
class Prediction:
    """One answered request, as the log keeps it."""

    request_id: str
    row_ids: Sequence[str | None] | None
    at: datetime
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_]
    keys: dict[str, Sequence[Any]]
    defaulted: dict[str, NDArray[np.bool_]]
    features_as_of: datetime | None
    scores: Sequence[float]
    seconds: float
    trace_id: str | None
    sampled: bool = True
    """In the share of all requests that is logged."""
    share: float = 1.0
    """That share."""
    kept: Sequence[KeepRule] = ()
    """Rules that had it logged in any case."""

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

    def __init__(
        self, manifest: Manifest, labels: tuple[str, str, str], redaction: Redaction
    ) -> None:
        self._labels = labels
        self._redaction = redaction
        inputs = {column.name: _type(column) for column in manifest.inputs}
        self._lanes = manifest.lanes
        self._texts = manifest.of_type("BYTES")
        self._keys = [key for key in manifest.entities if key not in inputs]
        own = {**HEAD, **MODEL, "features_as_of": INSTANT, **TAIL}
        if taken := sorted(own.keys() & (inputs.keys() | set(self._keys))):
            raise IntegrityError(
                f"inputs {taken} have names of the prediction log's own columns",
                hint="rename them in training.inputs and the feature repository, and train again",
            )
        given = {**inputs, **dict.fromkeys(self._keys, pa.string())}
        kept = {name: kind for name, kind in given.items() if name not in redaction.dropped}
        columns = {**HEAD, **MODEL, "features_as_of": INSTANT, **kept, **TAIL}
        self._schema = pa.schema(columns.items())

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return one Parquet file, a row per scored row, in the order of the requests."""
        request = np.repeat(np.arange(len(predictions)), [p.rows for p in predictions])
        columns: dict[str, Any] = {
            "request_id": [p.request_id for p in predictions],
            "at": [p.at for p in predictions],
            "features_as_of": [p.features_as_of for p in predictions],
            "seconds": [p.seconds for p in predictions],
            "trace_id": [p.trace_id for p in predictions],
            "sampled": [p.sampled for p in predictions],
            "sample_share": [p.share for p in predictions],
            "kept": [p.kept for p in predictions],
        }
        columns = {name: self._array(name, v).take(request) for name, v in columns.items()}
        numbers = _beside([p.numbers for p in predictions])
        columns |= {name: _values(numbers[lanes]) for name, lanes in self._lanes.items()}
        columns |= zip(self._texts, _beside([p.texts for p in predictions]), strict=True)
        columns |= {k: _join(_text(p, k) for p in predictions) for k in self._keys}
        columns["row_id"] = _join(p.row_ids or [None] * p.rows for p in predictions)
        columns["defaulted"] = _join(map(_defaulted, predictions))
        columns["score"] = _join(p.scores for p in predictions)
        for name, label in zip(MODEL, self._labels, strict=True):
            columns[name] = pa.repeat(label, len(request))
        written = {name: self._array(name, columns[name]) for name in self._schema.names}
        self._redaction.apply(written)
        table = pa.Table.from_pydict(written, schema=self._schema)
        sink = pa.BufferOutputStream()
        # Numbers hardly repeat: a dictionary of them costs a third of the time, and space as well.
        texts = [field.name for field in self._schema if pa.types.is_string(field.type)]
        pq.write_table(table, sink, compression="zstd", use_dictionary=texts)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    def _array(self, name: str, values: Any) -> pa.Array:
        if isinstance(values, pa.Array):
            return values
        return pa.array(values, self._schema.field(name).type)


def _type(column: InputColumn) -> pa.DataType:
    kind = TYPES[column.datatype]
    return kind if column.width == 1 else pa.list_(kind, column.width)


def _values(lanes: NDArray[np.float32]) -> NDArray[np.float32] | pa.Array:
    """Return an input's values, `[rows]`; those of a vector as one list a row."""
    if len(lanes) == 1:
        return lanes[0]
    return pa.FixedSizeListArray.from_arrays(lanes.T.ravel(), len(lanes))


def _beside(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts, axis=1)


def _join(parts: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(parts))


def _text(prediction: Prediction, key: str) -> Sequence[str | None]:
    values = prediction.keys.get(key) or [None] * prediction.rows
    return [str(value) if type(value) is int else value for value in values]


def _defaulted(prediction: Prediction) -> list[list[str]]:
    if not prediction.defaulted:
        return [[]] * prediction.rows
    return [
        [name for name, rows in prediction.defaulted.items() if rows[row]]
        for row in range(prediction.rows)
    ]
