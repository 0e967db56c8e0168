"""What stands in the store, of all models at once."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, func, select

from tidemill.adapters.store import incidents, windows
from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import (
    incident,
    monitor_window,
    retrain_decision,
    retrain_request,
)
from tidemill.domain.governor import RequestState, Verb
from tidemill.domain.incidents import Incident
from tidemill.domain.verdicts import WindowVerdict
from tidemill.errors import PermanentError
from tidemill.ports.monitoring import Standing

__all__ = ["StoredStandings"]


class StoredStandings:
    """Implements `ports.monitoring.Standings` with four queries, whatever the number of models.

    What is fetched does not grow with time: two windows and five incidents a model at most, and
    sums that the database makes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self) -> Standing:
        """Look once; raises Unavailable, PermanentError for what a newer tidemill wrote."""
        with transaction(self._engine, "what stands") as connection:
            try:
                return Standing(
                    windows=_windows(connection),
                    incidents=_incidents(connection),
                    requests=_requests(connection),
                    decisions=_decisions(connection),
                )
            except ValidationError as error:
                raise PermanentError(
                    f"the store {self._engine.url} holds a verdict or an incident that this"
                    f" tidemill does not know: {error.title}",
                    hint="upgrade the older part: all of a release share one store",
                ) from error


def _windows(connection: Connection) -> dict[str, tuple[WindowVerdict, ...]]:
    table = monitor_window
    age = func.row_number().over(partition_by=table.c.model, order_by=table.c.end.desc())
    # Numbered by the primary key alone: bodies are read of those that are wanted.
    numbered = select(table.c.model, table.c.end, age.label("age")).subquery()
    same = (table.c.model == numbered.c.model) & (table.c.end == numbered.c.end)
    query = select(table.c.model, table.c.body).join(numbered, same).where(numbered.c.age <= 2)
    found: dict[str, tuple[WindowVerdict, ...]] = {}
    for model, body in connection.execute(query.order_by(table.c.model, table.c.end)):
        found[model] = (*found.get(model, ()), windows.BODY.validate_json(body))
    return found


def _incidents(connection: Connection) -> tuple[Incident, ...]:
    query = select(incident.c.body).where(incident.c.state != "resolved")
    bodies = connection.execute(query.order_by(incident.c.opened_at, incident.c.id)).scalars()
    return tuple(incidents.BODY.validate_json(body) for body in bodies)


def _requests(connection: Connection) -> dict[str, dict[RequestState, int]]:
    table = retrain_request
    query = select(table.c.model, table.c.state, func.count()).group_by(
        table.c.model, table.c.state
    )
    found: dict[str, dict[RequestState, int]] = defaultdict(dict)
    for model, state, count in connection.execute(query):
        found[model][state] = count
    return found


def _decisions(connection: Connection) -> dict[str, dict[Verb, datetime]]:
    table = retrain_decision
    query = select(table.c.model, table.c.verb, func.max(table.c.at)).group_by(
        table.c.model, table.c.verb
    )
    found: dict[str, dict[Verb, datetime]] = defaultdict(dict)
    for model, verb, at in connection.execute(query):
        found[model][verb] = datetime.fromisoformat(at)
    return found
