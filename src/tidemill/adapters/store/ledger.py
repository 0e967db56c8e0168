"""The promotion ledger in the store."""

from __future__ import annotations

import random
import time
from dataclasses import asdict

from sqlalchemy import Engine, Row, insert, select

from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import ledger
from tidemill.domain.ledger import Entry, Record, chain
from tidemill.errors import Conflict

__all__ = ["StoredLedger"]

ATTEMPTS = 200
"""Of appending behind whoever was faster; each loses to one writer, so this many at once fit."""


class StoredLedger:
    """A chain of rows whose primary key lets exactly one writer take each place.

    Read and write are two short transactions instead of a lock: the same code is right on SQLite
    and PostgreSQL, and a writer that dies holds nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append(self, record: Record, *, after: Entry | None = None) -> Entry:
        """Put a record at the end; raises Conflict when `after` is not the end any more."""
        for attempt in range(ATTEMPTS):
            last = after or self._last()
            entry = chain(record, last)
            try:
                with transaction(self._engine, f"entry {entry.seq} of the ledger") as connection:
                    connection.execute(insert(ledger).values(**asdict(entry)))
            except Conflict as error:
                if after:
                    raise Conflict(
                        f"entry {after.seq} is no longer the end of the ledger"
                    ) from error
                time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 50)))  # noqa: S311
                continue
            return entry
        raise Conflict(f"the ledger was never free in {ATTEMPTS} attempts", hint="try again")

    def entries(self) -> list[Entry]:
        """Return the whole chain in its order."""
        with transaction(self._engine, "the ledger") as connection:
            rows = connection.execute(select(ledger).order_by(ledger.c.seq)).all()
        return [_entry(row) for row in rows]

    def _last(self) -> Entry | None:
        query = select(ledger).order_by(ledger.c.seq.desc()).limit(1)
        with transaction(self._engine, "the ledger") as connection:
            row = connection.execute(query).first()
        return _entry(row) if row else None


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(**row._mapping)
