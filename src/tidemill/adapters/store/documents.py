"""JSON bodies written by compare-and-swap, for tables with the columns `id`, `edits` and `body`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, insert, update
from sqlalchemy.exc import IntegrityError, OperationalError

from tidemill.errors import Conflict, Unavailable

__all__ = ["transaction", "write"]


@contextmanager
def transaction(engine: Engine, what: str) -> Iterator[Connection]:
    """Run a transaction; raises Conflict when a constraint objects, Unavailable without a store."""
    try:
        with engine.begin() as connection:
            yield connection
    except IntegrityError as error:
        raise Conflict(
            f"{what}: somebody else was first", hint="look again, then repeat"
        ) from error
    except OperationalError as error:
        raise Unavailable(f"the store does not answer: {error.orig}") from error


def write(connection: Connection, table: Table, edits: int, row: dict[str, Any]) -> None:
    """Insert `row` (`edits` 0) or replace the one that was read; raises Conflict if it changed."""
    if edits == 0:
        connection.execute(insert(table).values(**row, edits=1))
        return
    there = (table.c.id == row["id"], table.c.edits == edits)
    if connection.execute(update(table).where(*there).values(**row, edits=edits + 1)).rowcount != 1:
        raise Conflict(f"{row['id']} was written meanwhile", hint="look again, then repeat")
