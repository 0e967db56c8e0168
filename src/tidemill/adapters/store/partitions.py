"""The partition ledger in the store."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, insert, select, update

from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import partition as ledger
from tidemill.ports.data import Partition, PartitionStatus

__all__ = ["StoredPartitions"]


class StoredPartitions:
    """Attempts are appended, each in one transaction; only their status ever changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def attempts(self, table: str, period: str) -> list[Partition]:
        """Return every attempt, the newest (by `as_of`, then attempt) first."""
        query = (
            select(ledger)
            .where(ledger.c.table == table, ledger.c.period == period)
            .order_by(ledger.c.as_of.desc(), ledger.c.attempt.desc())
        )
        with transaction(self._engine, f"partitions of {table} {period}") as connection:
            return [_partition(row) for row in connection.execute(query).mappings()]

    def record(self, draft: Partition, *, after: int) -> Partition:
        """Append `draft` as attempt `after + 1`; raises Conflict if that exists by now."""
        written = replace(draft, attempt=after + 1)
        self._write(insert(ledger).values(**_row(written)), written)
        return written

    def judge(self, partition: Partition, status: PartitionStatus) -> None:
        """Set the verdict of the last validation."""
        where = (
            ledger.c.table == partition.table,
            ledger.c.period == partition.period,
            ledger.c.attempt == partition.attempt,
            ledger.c.status != status,
        )
        self._write(update(ledger).where(*where).values(status=status), partition)

    def _write(self, statement: Any, written: Partition) -> None:
        what = f"attempt {written.attempt} of {written.table} {written.period}"
        with transaction(self._engine, what) as connection:
            connection.execute(statement)


def _row(written: Partition) -> dict[str, Any]:
    as_of = written.as_of.astimezone(UTC).isoformat(timespec="microseconds")
    return asdict(written) | {"as_of": as_of}


def _partition(row: RowMapping) -> Partition:
    fields = {name: value for name, value in row.items() if name != "id"}
    return Partition(**fields | {"as_of": datetime.fromisoformat(row["as_of"])})
