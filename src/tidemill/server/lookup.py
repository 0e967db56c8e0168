"""Features that the caller did not give, looked up online; a default where there is none.

A store that fails costs a request its deadline, so after some failures in a row it is left alone
for a while. Each model has a circuit of its own: a store that holds another definition than a model
is pinned to fails for that model alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from types import NoneType
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from tidemill.bundle import FeatureView, InputColumn, Manifest
from tidemill.ports.features import OnlineBatch, OnlineReader, Value
from tidemill.server.circuit import Circuit
from tidemill.server.metrics import Counters
from tidemill.server.model import default
from tidemill.server.reads import Reads
from tidemill.server.tensors import FP32_MAX
from tidemill.server.validation import Batch
from tidemill.settings.serving import ServingSettings

__all__ = ["Found", "Lookup"]

log = structlog.get_logger(__name__)

USABLE: dict[str, set[type]] = {"BYTES": {str, NoneType}, "FP32": {float, int, bool, NoneType}}
LONGEST_PAUSE_SECONDS = 30.0
"""Between two tries of a store that stays down."""
NOTHING = OnlineBatch({}, None)


@dataclass(frozen=True, slots=True)
class Found:
    """What became of the features that the caller did not give."""

    defaulted: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Inputs that fell back → in which rows; an input without a default in use is absent."""
    by_view: dict[str, int] = field(default_factory=dict)
    """View → rows in which one of its inputs fell back."""
    stale: dict[str, int] = field(default_factory=dict)
    """View → rows whose stored value was older than the view's ttl; part of `by_view`."""
    as_of: datetime | None = None
    """Watermark of the online store; None if nothing was read."""
    lacking: tuple[str, ...] = ()
    """Inputs that the model would see as missing and, by `serving.nan_policy`, must not."""
    unknown: str = ""
    """What the keys lack, where it is for them alone that inputs are `lacking`: the store was read,
    and has no such row."""
    age_seconds: float | None = None
    """Age of the watermark where it is above the limit."""


class Lookup:
    """Reads the online store for one model, within a deadline."""

    def __init__(
        self,
        manifest: Manifest,
        reader: OnlineReader,
        settings: ServingSettings,
        counters: Counters,
    ) -> None:
        self._inputs = {c.name: c for c in manifest.inputs if c.origin == "feature"}
        self._lanes = {name: lane.start for name, lane in manifest.lanes.items()}
        self._texts = manifest.of_type("BYTES")
        self._service = manifest.features
        self._reader = reader
        self._verified: datetime | None = None
        self._counters = counters
        self._deadline = settings.lookup_deadline_ms / 1000
        self._strict = settings.nan_policy == "reject"
        self._oldest = settings.max_store_age_seconds
        # A pause below the deadline would let several try at once.
        pause = max(settings.lookup_pause_seconds, self._deadline)
        self._circuit = Circuit(settings.lookup_failures, pause, LONGEST_PAUSE_SECONDS)
        self._reads = Reads(self._verified_read)

    async def fill(self, batch: Batch, moment: datetime) -> Found:
        """Complete the batch with features; never fails: what is not there gets its default."""
        online = await self._read(batch, moment)
        stale = {view: sum(rows) for view, rows in online.stale.items()}
        sought = [
            (view, column)
            for view in batch.views
            for feature in view.fields
            if (column := self._inputs.get(feature.name)) and column.name not in batch.given
        ]
        missing = self._fill(batch, [column for _, column in sought], online)
        lacking = {
            column.name: (view, missing[column.name])
            for view, column in sought
            if self._strict and column.name in missing and column.default is None
        }
        found = Found(
            stale=stale,
            as_of=online.as_of,
            lacking=tuple(lacking),
            unknown=_unknown(lacking, online),
            age_seconds=self._age(online, moment),
        )
        fallen: dict[str, NDArray[np.bool_]] = {}
        for view, column in sought:
            if (rows := missing.get(column.name)) is not None:
                found.defaulted[column.name] = rows
                fallen[view.name] = fallen[view.name] | rows if view.name in fallen else rows
        found.by_view.update({view: int(np.count_nonzero(rows)) for view, rows in fallen.items()})
        return found

    def _fill(
        self, batch: Batch, columns: Sequence[InputColumn], online: OnlineBatch
    ) -> dict[str, NDArray[np.bool_]]:
        """Write looked-up values, or defaults, into a batch; return who fell back, and where."""
        missing = {}
        numbers = [column for column in columns if column.datatype == "FP32"]
        if numbers:  # all at once: one by one they would cost more than the model
            found = np.array([_values(one, online, batch.rows) for one in numbers], np.float64)
            present = np.abs(found) <= FP32_MAX
            defaults = np.array([[default(column)] for column in numbers], np.float64)
            lanes = [self._lanes[column.name] for column in numbers]
            batch.numbers[lanes] = np.where(present, found, defaults)
            absent = np.flatnonzero(~present.all(axis=1))
            missing = {numbers[index].name: ~present[index] for index in absent}
        for column in columns:
            if column.datatype == "BYTES":
                values = _values(column, online, batch.rows)
                rows = np.array([value is None for value in values])
                texts = [default(column) if value is None else value for value in values]
                batch.texts[self._texts.index(column.name)] = texts
                if rows.any():
                    missing[column.name] = rows
        return missing

    def _age(self, online: OnlineBatch, moment: datetime) -> float | None:
        """Return the watermark's age in seconds if it is above the limit."""
        if not self._oldest or online.as_of is None:
            return None
        age = (moment - online.as_of).total_seconds()
        return age if age > self._oldest else None

    async def _read(self, batch: Batch, moment: datetime) -> OnlineBatch:
        """Read the store within the deadline, unless it is left alone; nothing when it fails."""
        started = monotonic()
        if not self._circuit.admit(started):
            return NOTHING
        reason = ""
        online = NOTHING
        try:
            online = await self._read_in_time(batch, moment)
        except TimeoutError:
            reason = f"no answer within {self._deadline * 1000:g} ms"
        except Exception as error:  # noqa: BLE001 - whatever a store does, inference goes on
            reason = f"{type(error).__name__}: {error}"
        now = monotonic()
        self._counters.lookups.observe(now - started)
        if self._circuit.record(now, ok=not reason):
            self._report(reason)
        return online

    async def _read_in_time(self, batch: Batch, moment: datetime) -> OnlineBatch:
        keys = {key: batch.keys[key] for view in batch.views for key in view.join_keys}
        async with asyncio.timeout(self._deadline):
            return await self._reads.read(batch.views, keys, batch.rows, moment)

    def _report(self, reason: str) -> None:
        """Log that the circuit opened or closed; metrics count what happens in between."""
        self._counters.store_open = self._circuit.open
        labels = dict(zip(("model", "version"), self._counters.labels, strict=False))
        if reason:
            log.warning("lookups fail, features fall back to defaults", reason=reason, **labels)
        else:
            log.info("lookups work again", **labels)

    def _verified_read(
        self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], moment: datetime
    ) -> OnlineBatch:
        """Read, and after each materialisation make sure that the definition is still the same."""
        online = self._reader.read(views, keys, moment)
        if online.as_of is None or online.as_of != self._verified:
            self._reader.verify(self._service)
            self._verified = online.as_of
        return online


def _values(column: InputColumn, online: OnlineBatch, rows: int) -> Sequence[Value]:
    """Return the values that were looked up, `[rows]`; None where there is none.

    A column with a value of a wrong type is not used at all: the store holds something else.
    """
    values = online.columns.get(column.name)
    if values is None or not USABLE[column.datatype].issuperset(map(type, values)):
        return [None] * rows
    return values


def _unknown(
    lacking: Mapping[str, tuple[FeatureView, NDArray[np.bool_]]], online: OnlineBatch
) -> str:
    """Say which key has no row in the store; nothing if the store is to blame for a row.

    It is where it could not be read or was never filled, and for values that are too old or of a
    wrong type.
    """
    told = ""
    for name, (view, rows) in lacking.items():
        values, old = online.columns.get(name), online.stale.get(view.name)
        places = np.flatnonzero(rows).tolist()
        if online.as_of is None or values is None:
            return ""
        if any(values[row] is not None or (old and old[row]) for row in places):
            return ""
        keys = ", ".join(f"'{key}'" for key in view.join_keys)
        told = told or (
            f"view '{view.name}' holds no '{name}' for the key {keys} in row {places[0]}, and this "
            "model has no default for it; give the input or a known key"
        )
    return told
