"""Rows of the prediction log as Parquet; the schema is in docs/architecture.md.

Private values are replaced here, in the log's thread: before they leave the memory, and at no cost
to an answer. What is the same for all rows of a request becomes an Arrow value once and is repeated
there; other threads run after each row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from arro3.core import Array, DataType, Table, fixed_size_list_array, list_array
from arro3.io import write_parquet
from msgspec import Struct
from numpy.typing import NDArray

from tidemill.bundle import Manifest
from tidemill.errors import IntegrityError
from tidemill.server.redaction import Redaction
from tidemill.settings.serving import KeepRule

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Encoder", "Prediction"]

HEAD = ("request_id", "row_id", "at")
MODEL = ("model", "version", "revision")
AS_OF = ("features_as_of",)
TAIL = ("defaulted", "score", "seconds", "trace_id", "sampled", "sample_share", "kept")
TEXT = DataType.string()
INSTANT = DataType.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
GROUP_ROWS = 1000
"""Rows of a row group. Other threads run after each, some 0.5 ms; smaller ones cost more time."""


class Prediction(Struct, gc=False):
    """One answered request, as the log keeps it; thousands wait, and the collector skips them."""

    request_id: str
    row_ids: Sequence[str | None] | None
    at: datetime
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_]
    keys: dict[str, Sequence[Any]]
    defaulted: dict[str, NDArray[np.bool_]]
    features_as_of: datetime | None
    scores: NDArray[np.float32]
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
        inputs = [column.name for column in manifest.inputs]
        self._lanes = manifest.lanes
        self._texts = manifest.of_type("BYTES")
        self._keys = [key for key in manifest.entities if key not in inputs]
        given = [*inputs, *self._keys]
        if taken := sorted({*HEAD, *MODEL, *AS_OF, *TAIL} & set(given)):
            raise IntegrityError(
                f"inputs {taken} have names of the prediction log's own columns",
                hint="rename them in training.inputs and the feature repository, and train again",
            )
        kept = [name for name in given if name not in redaction.dropped]
        self._names = (*HEAD, *MODEL, *AS_OF, *kept, *TAIL)

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return one Parquet file, a row per scored row, in the order of the requests."""
        places = np.arange(len(predictions), dtype=np.uint32)
        request = Array.from_numpy(np.repeat(places, [p.rows for p in predictions]))
        columns = {name: a.take(request) for name, a in _by_request(predictions).items()}
        all_rows = Array.from_numpy(np.zeros(len(request), np.uint32))
        for name, label in zip(MODEL, self._labels, strict=True):
            columns[name] = Array([label], TEXT).take(all_rows)
        columns["row_id"] = _row_ids(predictions, len(request))
        columns["score"] = Array.from_numpy(np.concatenate([p.scores for p in predictions]))
        columns["defaulted"] = _defaulted(predictions, len(request))
        numbers = np.concatenate([p.numbers for p in predictions], axis=1)
        columns |= {name: _values(numbers[lanes]) for name, lanes in self._lanes.items()}
        if self._texts:
            texts = np.concatenate([p.texts for p in predictions], axis=1)
            columns |= {name: _texts([row]) for name, row in zip(self._texts, texts, strict=True)}
        columns |= {key: _texts(_key(p, key) for p in predictions) for key in self._keys}
        self._redaction.apply(columns)
        return _write({name: columns[name] for name in self._names})


def _by_request(predictions: Sequence[Prediction]) -> dict[str, Array]:
    """Return the columns that are the same for all rows of a request, `[predictions]`."""
    return {
        "request_id": Array([p.request_id for p in predictions], TEXT),
        "at": _instants(p.at for p in predictions),
        "features_as_of": _instants(p.features_as_of for p in predictions),
        "seconds": Array([p.seconds for p in predictions], DataType.float64()),
        "trace_id": Array([p.trace_id for p in predictions], TEXT),
        "sampled": Array([p.sampled for p in predictions], DataType.bool()),
        "sample_share": Array([p.share for p in predictions], DataType.float64()),
        "kept": _lists([p.kept for p in predictions]),
    }


def _instants(moments: Iterable[datetime | None]) -> Array:
    since = [None if at is None else (at - EPOCH) // MICROSECOND for at in moments]
    return Array(since, DataType.int64()).cast(INSTANT)


def _values(lanes: NDArray[np.float32]) -> Array:
    """Return an input's values, `[rows]`; those of a vector as one list a row."""
    values = Array.from_numpy(np.ascontiguousarray(lanes.T).reshape(-1))
    return values if len(lanes) == 1 else fixed_size_list_array(values, len(lanes))


def _texts(parts: Iterable[Iterable[str | None]]) -> Array:
    return Array(list(chain.from_iterable(parts)), TEXT)


def _lists(rows: Sequence[Sequence[str]]) -> Array:
    """Return a list a row; as a rule all are empty."""
    ends = np.zeros(len(rows) + 1, np.int32)
    if any(rows):
        ends[1:] = np.cumsum([*map(len, rows)])
    return list_array(Array.from_numpy(ends), _texts(rows))


def _row_ids(predictions: Sequence[Prediction], rows: int) -> Array:
    if any(prediction.row_ids for prediction in predictions):
        return _texts(p.row_ids or [None] * p.rows for p in predictions)
    return Array([None] * rows, TEXT)


def _key(prediction: Prediction, key: str) -> Sequence[str | None]:
    values = prediction.keys.get(key) or [None] * prediction.rows
    return [str(value) if type(value) is int else value for value in values]


def _defaulted(predictions: Sequence[Prediction], rows: int) -> Array:
    """Return the names of each row's defaulted inputs, `[rows]`."""
    if any(prediction.defaulted for prediction in predictions):
        return _lists([*chain.from_iterable(map(_defaulted_by_row, predictions))])
    return _lists([()] * rows)


def _defaulted_by_row(prediction: Prediction) -> list[list[str]]:
    return [
        [name for name, rows in prediction.defaulted.items() if rows[row]]
        for row in range(prediction.rows)
    ]


def _write(columns: dict[str, Array]) -> bytes:
    """Return a Parquet file of columns."""
    # Numbers hardly repeat: a dictionary of them takes half as much time again and saves a seventh
    # of the space; zstd instead of snappy takes two thirds more and saves a quarter.
    repeated: dict[str | Sequence[str], bool] = {
        name: True for name, array in columns.items() if array.type == TEXT
    }
    file = _Yielding()
    write_parquet(
        Table.from_arrays(list(columns.values()), names=list(columns)),
        file,
        compression="snappy",
        dictionary_enabled=False,
        column_dictionary_enabled=repeated,
        max_row_group_size=GROUP_ROWS,
    )
    return file.getvalue()


class _Yielding(BytesIO):
    """A file in memory that is written by a function in Python.

    arro3 keeps the interpreter while it encodes. Only where it calls such a function can a thread
    that waits for the interpreter have it: not in a file that arro3 opens by its path, nor in a
    BytesIO itself, where answers would wait for the whole.
    """

    def write(self, piece: Buffer) -> int:
        """Write a piece of a row group."""
        return super().write(piece)
