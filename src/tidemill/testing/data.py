"""Fakes of the data ports: a source of frames, a partition ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from tidemill.domain.months import STATIC
from tidemill.errors import Conflict, NotFound
from tidemill.ports.data import Cadence, Partition, PartitionStatus

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MemoryPartitions", "MemorySource"]


class MemorySource:
    """Frames by table and period, each delivered from an instant on; a later one is a correction.

    Deliver with `source.deliver("events", "2013-01", instant, frame)`.
    """

    def __init__(self) -> None:
        self._deliveries: dict[tuple[str, str], list[tuple[datetime, pl.DataFrame]]] = {}

    def deliver(self, table: str, period: str, at: datetime, frame: pl.DataFrame) -> None:
        """Make `frame` what is known of a partition from `at` on."""
        self._deliveries.setdefault((table, period), []).append((at, frame))

    def tables(self) -> Mapping[str, Cadence]:
        """Return every table that something was delivered of."""
        return {t: "static" if p == STATIC else "monthly" for t, p in self._deliveries}

    def read(self, table: str, period: str, as_of: datetime) -> pl.DataFrame:
        """Return the last delivery before `as_of`."""
        known = [f for at, f in self._deliveries.get((table, period), []) if at <= as_of]
        if not known:
            raise NotFound(f"nothing was delivered of {table} {period} until {as_of}")
        return known[-1]

    def digest(self, table: str, period: str, as_of: datetime) -> str:
        """Hash the delivery's rows and types."""
        frame = self.read(table, period, as_of)
        text = f"{list(frame.schema.items())} {frame.rows()}"
        return hashlib.sha256(text.encode()).hexdigest()


class MemoryPartitions:
    """Attempts in a list."""

    def __init__(self) -> None:
        self._attempts: list[Partition] = []

    def attempts(self, table: str, period: str) -> list[Partition]:
        """Return every attempt, the newest first."""
        found = [a for a in self._attempts if (a.table, a.period) == (table, period)]
        return sorted(found, key=lambda a: (a.as_of, a.attempt), reverse=True)

    def record(self, draft: Partition, *, after: int) -> Partition:
        """Append an attempt."""
        written = replace(draft, attempt=after + 1)
        if any(a.attempt == written.attempt for a in self.attempts(draft.table, draft.period)):
            raise Conflict(f"another process recorded attempt {written.attempt} first")
        self._attempts.append(written)
        return written

    def judge(self, partition: Partition, status: PartitionStatus) -> None:
        """Set an attempt's status."""
        self._attempts = [
            replace(a, status=status)
            if (a.table, a.period, a.attempt)
            == (partition.table, partition.period, partition.attempt)
            else a
            for a in self._attempts
        ]
