"""Features that the caller did not give, looked up online; a default where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from tidemill.bundle import FeatureView, InputColumn, Manifest
from tidemill.ports.features import OnlineBatch, OnlineReader, Value
from tidemill.server.model import default
from tidemill.server.tensors import FP32_MAX
from tidemill.server.validation import Batch

__all__ = ["Found", "Lookup"]

log = structlog.get_logger(__name__)

USABLE: dict[str, set[type]] = {"BYTES": {str, NoneType}, "FP32": {float, int, bool, NoneType}}
THREADS = 4
"""Reads at once; a reader that hangs holds one, the others go on."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of the features that the caller did not give."""

    defaulted: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Inputs that fell back → in which rows; an input without a default in use is absent."""
    by_view: dict[str, int] = field(default_factory=dict)
    """View → rows in which one of its inputs fell back."""
    as_of: datetime | None = None
    """Watermark of the online store; None if nothing was read."""


class Lookup:
    """Reads the online store for one model, within a deadline."""

    def __init__(self, manifest: Manifest, reader: OnlineReader, deadline_ms: float) -> None:
        self._inputs = {c.name: c for c in manifest.inputs if c.origin == "feature"}
        self._numbers = manifest.of_type("FP32")
        self._texts = manifest.of_type("BYTES")
        self._service = manifest.features
        self._reader = reader
        self._verified: datetime | None = None
        self._failing = False
        self._deadline = deadline_ms / 1000
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup")

    async def fill(self, batch: Batch, moment: datetime) -> Found:
        """Complete the batch with features; never fails: what is not there gets its default."""
        online = await self._read(batch, moment)
        found = Found(as_of=online.as_of)
        for view in batch.views:
            fallen = np.zeros(batch.rows, dtype=np.bool_)
            for feature in view.fields:
                column = self._inputs.get(feature.name)
                if column is None or column.name in batch.given:
                    continue
                missing = _complete(
                    self._row(batch, column), column, online.columns.get(column.name)
                )
                if missing.any():
                    found.defaulted[column.name] = missing
                    fallen |= missing
            if fallen.any():
                found.by_view[view.name] = int(fallen.sum())
        return found

    def _row(self, batch: Batch, column: InputColumn) -> NDArray[Any]:
        """Return the place of an input in the batch, a view of `[rows]`."""
        if column.datatype == "BYTES":
            return batch.texts[self._texts.index(column.name)]  # type: ignore[no-any-return]
        return batch.numbers[self._numbers.index(column.name)]  # type: ignore[no-any-return]

    async def _read(self, batch: Batch, moment: datetime) -> OnlineBatch:
        views = batch.views
        keys = {key: batch.keys[key] for view in views for key in view.join_keys}
        read = asyncio.get_running_loop().run_in_executor(
            self._threads, self._verified_read, views, keys, moment
        )
        reason = ""
        online = OnlineBatch({}, None)
        try:
            online = await asyncio.wait_for(read, self._deadline)
        except TimeoutError:
            reason = f"no answer within {self._deadline * 1000:g} ms"
        except Exception as error:  # noqa: BLE001 - whatever a store does, inference goes on
            reason = f"{type(error).__name__}: {error}"
        self._report(reason)
        return online

    def _report(self, reason: str) -> None:
        """Log when lookups begin to fail and when they work again; metrics count in between."""
        if reason and not self._failing:
            log.warning("lookups fail, features fall back to defaults", reason=reason)
        elif self._failing and not reason:
            log.info("lookups work again")
        self._failing = bool(reason)

    def _verified_read(
        self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], moment: datetime
    ) -> OnlineBatch:
        """Read, and after each materialisation make sure that the definition is still the same."""
        online = self._reader.read(views, keys, moment)
        if online.as_of is None or online.as_of != self._verified:
            self._reader.verify(self._service)
            self._verified = online.as_of
        return online


def _complete(
    row: NDArray[Any], column: InputColumn, values: Sequence[Value] | None
) -> NDArray[np.bool_]:
    """Write looked-up values into a model's input; return where the default was used instead.

    A column with a value of a wrong type is not used at all: the store holds something else.
    """
    row[:] = default(column)
    if values is None or not USABLE[column.datatype].issuperset(map(type, values)):
        return np.ones(len(row), dtype=np.bool_)
    if column.datatype == "BYTES":
        found = np.array(values, dtype=object)
        present = np.array([value is not None for value in values])
    else:
        found = np.array(values, dtype=np.float64)
        present = np.abs(found) <= FP32_MAX
    row[present] = found[present]
    return ~present
