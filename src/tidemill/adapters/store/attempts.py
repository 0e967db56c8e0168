"""Attempts that the judge was asked about, in the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter
from sqlalchemy import Engine, delete, insert, select, update

from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import judged_attempt as table
from tidemill.domain.rollout.model import State
from tidemill.errors import Conflict

__all__ = ["StoredAttempts"]

STATE = TypeAdapter(State)
KEPT = timedelta(days=90)
"""An attempt that nobody asked about for so long is forgotten when another one begins."""


class StoredAttempts:
    """Implements `ports.rollout.Attempts`: every write is a compare-and-swap."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def state(self, attempt: str) -> tuple[State, int] | None:
        """Return the state and its version, or None."""
        with transaction(self._engine, f"attempt {attempt}") as connection:
            query = select(table.c.body, table.c.version).where(table.c.name == attempt)
            row = connection.execute(query).one_or_none()
        return None if row is None else (STATE.validate_json(row.body), row.version)

    def commit(self, attempt: str, state: State, expected: int, now: datetime) -> None:
        """Write the state over version `expected`, 0 for a new attempt; raises Conflict."""
        body = {"body": STATE.dump_json(state).decode(), "seen_at": _text(now)}
        with transaction(self._engine, f"attempt {attempt}") as connection:
            if expected == 0:
                connection.execute(delete(table).where(table.c.seen_at < _text(now - KEPT)))
                connection.execute(insert(table).values(name=attempt, version=1, **body))
                return
            there = (table.c.name == attempt, table.c.version == expected)
            written = update(table).where(*there).values(version=expected + 1, **body)
            if connection.execute(written).rowcount != 1:
                raise Conflict(f"attempt {attempt}: somebody else was first")

    def forget(self, attempt: str) -> None:
        """Drop an attempt; one that is not known is no error."""
        with transaction(self._engine, f"attempt {attempt}") as connection:
            connection.execute(delete(table).where(table.c.name == attempt))


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds")
