"""Verdicts of windows in the store."""

from __future__ import annotations

from pydantic import TypeAdapter
from sqlalchemy import Engine, delete, insert, select

from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import monitor_window as table
from tidemill.domain.verdicts import WindowVerdict

__all__ = ["StoredWindows"]

BODY = TypeAdapter(WindowVerdict)


class StoredWindows:
    """Implements `ports.monitoring.Windows`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, verdict: WindowVerdict) -> None:
        """Record a verdict."""
        key = {"model": verdict.model, "end": verdict.end}
        with transaction(self._engine, f"window {verdict.end}") as connection:
            same = (table.c.model == verdict.model, table.c.end == verdict.end)
            connection.execute(delete(table).where(*same))
            body = BODY.dump_json(verdict).decode()
            connection.execute(insert(table).values(**key, body=body))

    def last(self, model: str, count: int) -> list[WindowVerdict]:
        """Return the newest verdicts, oldest first."""
        query = select(table.c.body).where(table.c.model == model)
        query = query.order_by(table.c.end.desc()).limit(count)
        with transaction(self._engine, "windows") as connection:
            rows = connection.execute(query).all()
        return [BODY.validate_json(row.body) for row in reversed(rows)]
