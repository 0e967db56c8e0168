"""The partition ledger in the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from tidemill.adapters.store.tables import partition as ledger
from tidemill.errors import Conflict, Unavailable
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
        with _explained(f"read {table} {period}"), self._engine.connect() as connection:
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
        what = f"record attempt {written.attempt} of {written.table} {written.period}"
        with _explained(what), self._engine.begin() as connection:
            connection.execute(statement)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the database raises into tidemill's errors."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(
            f"cannot {what}: another process was first", hint="run the same command again"
        ) from error
    except OperationalError as error:
        raise Unavailable(
            f"the store cannot {what}: {error.orig}",
            hint="check storage.database and the free disk space, then run the command again",
        ) from error


def _row(written: Partition) -> dict[str, Any]:
    as_of = written.as_of.astimezone(UTC).isoformat(timespec="microseconds")
    return asdict(written) | {"as_of": as_of}


def _partition(row: RowMapping) -> Partition:
    fields = {name: value for name, value in row.items() if name != "id"}
    return Partition(**fields | {"as_of": datetime.fromisoformat(row["as_of"])})
