"""Retraining requests and the decisions on them, in the store."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, func, insert, select

from tidemill.adapters.store.documents import find, transaction, write
from tidemill.adapters.store.tables import retrain_decision, retrain_request
from tidemill.domain.governor import Decision, Request
from tidemill.errors import Conflict

__all__ = ["StoredRequests"]

REQUEST, DECISION = TypeAdapter(Request), TypeAdapter(Decision)


class StoredRequests:
    """Implements `ports.monitoring.Requests`.

    A partial unique index over pending and running requests is the model's lock, in SQLite and
    PostgreSQL alike; no process holds it, so none can leave it behind.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def submit(self, request: Request) -> tuple[Request, bool]:
        """Record a new request, or return the one that is there."""
        try:
            return self.save(request), True
        except Conflict:
            return self._get(request.id), False

    def save(
        self, request: Request, decision: Decision | None = None, *, accepted: int | None = None
    ) -> Request:
        """Write a request and the decision that changed it; raises Conflict."""
        written = replace(request, edits=request.edits + 1)
        row = {
            "id": request.id,
            "model": request.model,
            "state": request.state,
            "requested_at": request.requested_at,
            "body": REQUEST.dump_json(written).decode(),
        }
        with transaction(self._engine, f"request {request.id}") as connection:
            write(connection, retrain_request, request.edits, row)
            if accepted is not None and len(_accepted(connection, request.model)) != accepted:
                raise Conflict(f"another run of {request.model} was accepted meanwhile")
            if decision is not None:
                _journal(connection, request, decision)
        return written

    def all(self, model: str) -> list[Request]:
        """Return a model's requests, oldest first."""
        table = retrain_request
        query = select(table.c.body).where(table.c.model == model)
        with transaction(self._engine, "requests") as connection:
            rows = connection.execute(query.order_by(table.c.requested_at, table.c.id)).all()
        return [REQUEST.validate_json(row.body) for row in rows]

    def decisions(self, request: str) -> list[Decision]:
        """Return the decisions on a request, oldest first; raises NotFound."""
        table = retrain_decision
        query = select(table.c.body).where(table.c.request == request).order_by(table.c.seq)
        with transaction(self._engine, "decisions") as connection:
            rows = connection.execute(query).all()
        if not rows:
            self._get(request)
        return [DECISION.validate_json(row.body) for row in rows]

    def accepted(self, model: str) -> list[Decision]:
        """Return the decisions that let a run start, oldest first."""
        with transaction(self._engine, "decisions") as connection:
            return _accepted(connection, model)

    def _get(self, request: str) -> Request:
        return REQUEST.validate_json(find(self._engine, retrain_request, request))


def _accepted(connection: Connection, model: str) -> list[Decision]:
    table = retrain_decision
    query = select(table.c.body).where(table.c.model == model, table.c.verb == "RUN")
    rows = connection.execute(query.order_by(table.c.at)).all()
    return [DECISION.validate_json(row.body) for row in rows]


def _journal(connection: Connection, request: Request, decision: Decision) -> None:
    table = retrain_decision
    query = select(func.count()).where(table.c.request == request.id)
    row = {
        "request": request.id,
        "seq": connection.execute(query).scalar_one() + 1,
        "model": request.model,
        "verb": decision.verb,
        "at": decision.at,
        "body": DECISION.dump_json(decision).decode(),
    }
    connection.execute(insert(table).values(**row))
