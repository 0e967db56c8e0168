"""Rows of the prediction log as columns; the schema is in docs/architecture.md.

Private values are replaced here, in the log's thread: before they leave the memory, and at no cost
to an answer. What is the same for all rows of a request, and texts that repeat, are held once and
referred to by each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from itertools import chain
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tidemill.bundle import Manifest
from tidemill.errors import IntegrityError
from tidemill.server.parquet import (
    BOOL,
    DOUBLE,
    FLOAT,
    INSTANT,
    TEXT,
    Chunk,
    Column,
    File,
    chosen,
    lists,
    nothing,
    plain,
    vectors,
)
from tidemill.server.redaction import Redaction
from tidemill.settings.serving import KeepRule

__all__ = ["Encoder", "Prediction"]

MODEL = ("model", "version", "revision")
HEAD = (Column("request_id", TEXT), Column("row_id", TEXT), Column("at", INSTANT))
LABELS = (*(Column(name, TEXT) for name in MODEL), Column("features_as_of", INSTANT))
TAIL = (
    Column("defaulted", TEXT, lists=True),
    Column("score", FLOAT),
    Column("seconds", DOUBLE),
    Column("trace_id", TEXT),
    Column("sampled", BOOL),
    Column("sample_share", DOUBLE),
    Column("kept", TEXT, lists=True),
)
TYPES = {"BYTES": TEXT, "FP32": FLOAT}
Places = NDArray[np.intp]
"""For each row the place of its value, or of its request."""


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
        self._lanes = manifest.lanes
        self._texts = manifest.of_type("BYTES")
        inputs = [Column(c.name, TYPES[c.datatype], lists=c.width > 1) for c in manifest.inputs]
        names = {column.name for column in inputs}
        self._keys = [key for key in manifest.entities if key not in names]
        given = [*inputs, *(Column(key, TEXT) for key in self._keys)]
        own = {column.name for column in (*HEAD, *LABELS, *TAIL)}
        if taken := sorted(own & {column.name for column in given}):
            raise IntegrityError(
                f"inputs {taken} have names of the prediction log's own columns",
                hint="rename them in training.inputs and the feature repository, and train again",
            )
        kept = [column for column in given if column.name not in redaction.dropped]
        self._columns = (*HEAD, *LABELS, *kept, *TAIL)

    def open(self) -> File:
        """Return a file that takes what `encode` returns."""
        return File(self._columns)

    def encode(self, predictions: Sequence[Prediction]) -> list[Chunk]:
        """Return a row group, a row per scored row in the order of the requests.

        Raises what numpy or a text's encoding raises for values that are not as they must be.
        """
        places = np.repeat(np.arange(len(predictions)), [len(p.scores) for p in predictions])
        chunks = _by_request(predictions, places)
        first = np.zeros(len(places), np.intp)
        chunks |= {
            name: chosen(TEXT, [label], first)
            for name, label in zip(MODEL, self._labels, strict=True)
        }
        chunks["row_id"] = _row_ids(predictions, len(places))
        chunks["score"] = plain(FLOAT, np.concatenate([p.scores for p in predictions]))
        chunks["defaulted"] = _defaulted(predictions, places)
        numbers = np.concatenate([p.numbers for p in predictions], axis=1)
        chunks |= {name: self._numbers(name, numbers[lanes]) for name, lanes in self._lanes.items()}
        texts = np.concatenate([p.texts for p in predictions], axis=1)
        for name, values in zip(self._texts, texts, strict=True):
            chunks[name] = self._private(name, values)
        for key in self._keys:
            values = chain.from_iterable(_key(p, key) for p in predictions)
            chunks[key] = self._private(key, values)
        return [chunks[column.name] for column in self._columns]

    def _numbers(self, name: str, lanes: NDArray[np.float32]) -> Chunk:
        width, rows = lanes.shape
        if self._redaction.hides(name):
            return nothing(rows, lists=width > 1)
        return plain(FLOAT, lanes[0]) if width == 1 else vectors(FLOAT, lanes.T)

    def _private(self, name: str, values: Iterable[str | None]) -> Chunk:
        entries, places = _distinct(values)
        # Once more: of masked values not even which ones are equal may be in the file.
        kept, again = _distinct(self._redaction.replace(name, entries))
        return chosen(TEXT, kept, again[places])


def _by_request(predictions: Sequence[Prediction], places: Places) -> dict[str, Chunk]:
    """Return the columns that are the same for all rows of a request."""
    sampled = np.array([p.sampled for p in predictions])
    return {
        "request_id": chosen(TEXT, [p.request_id for p in predictions], places),
        "at": chosen(INSTANT, [p.at for p in predictions], places),
        "features_as_of": chosen(INSTANT, [p.features_as_of for p in predictions], places),
        "seconds": chosen(DOUBLE, [p.seconds for p in predictions], places),
        "trace_id": chosen(TEXT, [p.trace_id for p in predictions], places),
        "sampled": plain(BOOL, sampled[places]),
        "sample_share": chosen(DOUBLE, [p.share for p in predictions], places),
        "kept": lists(TEXT, [p.kept for p in predictions], places),
    }


def _distinct(values: Iterable[str | None]) -> tuple[list[str | None], Places]:
    """Return the different values, and for each row the place of its own."""
    found: dict[str | None, int] = {}
    places = [found.setdefault(value, len(found)) for value in values]
    return list(found), np.array(places)


def _row_ids(predictions: Sequence[Prediction], rows: int) -> Chunk:
    if not any(prediction.row_ids for prediction in predictions):
        return nothing(rows)
    ids = [row_id for p in predictions for row_id in p.row_ids or [None] * p.rows]
    return chosen(TEXT, ids, np.arange(rows))


def _key(prediction: Prediction, key: str) -> Sequence[str | None]:
    values = prediction.keys.get(key) or [None] * prediction.rows
    return [str(value) if type(value) is int else value for value in values]


def _defaulted(predictions: Sequence[Prediction], places: Places) -> Chunk:
    """Return the names of each row's defaulted inputs."""
    if any(prediction.defaulted for prediction in predictions):
        rows = [*chain.from_iterable(map(_defaulted_by_row, predictions))]
        return lists(TEXT, rows, np.arange(len(rows)))
    return lists(TEXT, [()], np.zeros_like(places))


def _defaulted_by_row(prediction: Prediction) -> list[list[str]]:
    return [
        [name for name, rows in prediction.defaulted.items() if rows[row]]
        for row in range(prediction.rows)
    ]
