"""Transactions that raise tidemill's errors, and JSON bodies written by compare-and-swap.

The bodies are those of tables with the columns `id`, `edits` and `body`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from tidemill.errors import Conflict, NotFound, Unavailable

__all__ = ["find", "transaction", "write"]


@contextmanager
def transaction(engine: Engine, what: str) -> Iterator[Connection]:
    """Run a transaction about `what`.

    Raises Conflict when a constraint objects, Unavailable when the database does not answer or
    cannot be written.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except IntegrityError as error:
        raise Conflict(
            f"{what}: somebody else was first", hint="look again, then repeat"
        ) from error
    except DBAPIError as error:
        raise Unavailable(
            f"{what}: the store {engine.url} failed: {error.orig}",
            hint="check storage.database and the free disk space, then run the command again",
        ) from error


def find(engine: Engine, table: Table, name: str) -> str:
    """Return the body of the row `name`; raises NotFound that names the closest ids."""
    with transaction(engine, f"{table.name} {name}") as connection:
        body = connection.execute(select(table.c.body).where(table.c.id == name)).scalar()
        if body is None:
            known = connection.execute(select(table.c.id)).scalars()
            raise NotFound.among(table.name.rpartition("_")[2], name, known)
    return str(body)


def write(connection: Connection, table: Table, edits: int, row: dict[str, Any]) -> None:
    """Insert `row` (`edits` 0) or replace the one that was read; raises Conflict if it changed."""
    if edits == 0:
        connection.execute(insert(table).values(**row, edits=1))
        return
    there = (table.c.id == row["id"], table.c.edits == edits)
    if connection.execute(update(table).where(*there).values(**row, edits=edits + 1)).rowcount != 1:
        raise Conflict(f"{row['id']} was written meanwhile", hint="look again, then repeat")
