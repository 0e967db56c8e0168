"""Specification, state and decision log of rollouts in the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, Table, insert, select, update

from tidemill.adapters.store.documents import transaction
from tidemill.adapters.store.tables import rollout_decision, rollout_spec, rollout_state
from tidemill.domain.rollout.model import Decision, Plan, Revision, Spec, State
from tidemill.errors import Conflict

__all__ = ["StoredRollouts"]

SPEC, STATE, DECISION = TypeAdapter(Spec), TypeAdapter(State), TypeAdapter(Decision)


class StoredRollouts:
    """Implements `ports.rollout.Specs` and `States`: every write is a compare-and-swap."""

    def __init__(self, engine: Engine, plan: Callable[[], Plan]) -> None:
        """`plan` makes the plan of what is wanted next."""
        self._engine = engine
        self._plan = plan

    def spec(self, name: str) -> Spec | None:
        """Return the specification, or None."""
        row = self._row(rollout_spec, name)
        return None if row is None else SPEC.validate_json(row.body)

    def problem(self, name: str) -> str:  # noqa: ARG002 - the port's signature
        """Say why the specification cannot run: what is stored here was made by the plan."""
        return ""

    def wish(self, name: str, registered: Revision) -> Spec:  # noqa: ARG002 - the port's signature
        """Return the specification that wants a version, with the plan as it is now."""
        return Spec(0, registered, self._plan())

    def plan(self, name: str) -> Plan:  # noqa: ARG002 - the port's signature
        """Return the plan as it is now."""
        return self._plan()

    def propose(self, name: str, spec: Spec, *, anew: bool = False) -> None:  # noqa: ARG002 - the port's signature
        """Write a specification of the next generation; raises Conflict."""
        body = {"generation": spec.generation, "body": SPEC.dump_json(spec).decode()}
        with self._transaction(name) as connection:
            _swap(connection, rollout_spec, name, "generation", spec.generation - 1, body)

    def state(self, name: str) -> tuple[State, int]:
        """Return the state and its version."""
        row = self._row(rollout_state, name)
        return (State(), 0) if row is None else (STATE.validate_json(row.body), row.version)

    def commit(self, name: str, state: State, decision: Decision | None, expected: int) -> int:
        """Write state and decision in one transaction; raises Conflict."""
        body = {"version": expected + 1, "body": STATE.dump_json(state).decode()}
        with self._transaction(name) as connection:
            _swap(connection, rollout_state, name, "version", expected, body)
            if decision is not None:
                text = DECISION.dump_json(decision).decode()
                row = {"name": name, "seq": decision.seq, "body": text}
                connection.execute(insert(rollout_decision).values(**row))
        return expected + 1

    def decisions(self, name: str) -> list[Decision]:
        """Return the decision log, oldest first."""
        table = rollout_decision
        query = select(table.c.body).where(table.c.name == name).order_by(table.c.seq)
        with self._transaction(name) as connection:
            return [DECISION.validate_json(row.body) for row in connection.execute(query)]

    def _row(self, table: Table, name: str) -> Any:
        with self._transaction(name) as connection:
            return connection.execute(select(table).where(table.c.name == name)).one_or_none()

    def _transaction(self, name: str) -> AbstractContextManager[Connection]:
        return transaction(self._engine, f"rollout {name}")


def _swap(
    connection: Connection,
    table: Table,
    name: str,
    column: str,
    expected: int,
    body: dict[str, Any],
) -> None:
    if expected == 0:
        connection.execute(insert(table).values(name=name, **body))
        return
    there = (table.c.name == name, table.c[column] == expected)
    if connection.execute(update(table).where(*there).values(**body)).rowcount != 1:
        raise Conflict(f"rollout {name}: somebody else was first", hint="look again, then repeat")
