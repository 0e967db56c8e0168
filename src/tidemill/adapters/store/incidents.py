"""Incidents in the store."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter
from sqlalchemy import Engine, select

from tidemill.adapters.store.documents import find, transaction, write
from tidemill.adapters.store.tables import incident as table
from tidemill.domain.incidents import Incident

__all__ = ["StoredIncidents"]

BODY = TypeAdapter(Incident)


class StoredIncidents:
    """Implements `ports.monitoring.Incidents`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save(self, incident: Incident) -> Incident:
        """Write an incident; raises Conflict."""
        written = replace(incident, edits=incident.edits + 1)
        row = {
            "id": incident.id,
            "model": incident.model,
            "revision": incident.revision,
            "cause": incident.cause,
            "state": incident.state,
            "opened_at": incident.opened_at,
            "body": BODY.dump_json(written).decode(),
        }
        with transaction(self._engine, f"incident {incident.id}") as connection:
            write(connection, table, incident.edits, row)
        return written

    def get(self, incident: str) -> Incident:
        """Return an incident; raises NotFound."""
        return BODY.validate_json(find(self._engine, table, incident))

    def all(self, model: str, *, unresolved: bool = False) -> list[Incident]:
        """Return a model's incidents, oldest first."""
        query = select(table.c.body).where(table.c.model == model)
        if unresolved:
            query = query.where(table.c.state != "resolved")
        with transaction(self._engine, "incidents") as connection:
            rows = connection.execute(query.order_by(table.c.opened_at, table.c.id)).all()
        return [BODY.validate_json(row.body) for row in rows]
