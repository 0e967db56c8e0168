"""The engine of the store."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError

from tidemill.adapters.store.migrate import HEAD, bring_up_to_date, revision_of
from tidemill.errors import PermanentError, Unavailable

__all__ = ["open_store"]

EXCLUSIVE = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(7453461)",
}
"""What a transaction says first so that it is alone, and everything in it happens or nothing."""
BUSY_SECONDS = 30
"""How long SQLite's writers wait for each other."""


def open_store(url: str, password: str = "") -> Engine:
    """Open the store at an absolute SQLAlchemy URL, its schema up to date.

    Raises Unavailable when the database does not answer or cannot be written, PermanentError when
    a newer tidemill has written it.
    """
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    address = make_url(url)
    engine = create_engine(address.set(password=password) if password else address)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
    try:
        _bring_up_to_date(engine)
    except DatabaseError as error:
        raise Unavailable(
            f"the store {engine.url} cannot be opened: {error.orig}",
            hint="check storage.database and the free disk space, then run the command again",
        ) from error
    finally:
        engine.dispose()  # a child that is forked later must not share this connection
    return engine


def _bring_up_to_date(engine: Engine) -> None:
    """Create or upgrade the schema; of many processes that open a store at once, one does it."""
    with engine.connect() as connection:
        found = revision_of(connection)
    if found > HEAD:
        raise PermanentError(
            f"the store {engine.url} has revision {found}, this tidemill knows {HEAD}",
            hint="upgrade tidemill: pip install --upgrade tidemill",
        )
    if found == HEAD:
        return
    with engine.begin() as connection:
        connection.exec_driver_sql(EXCLUSIVE[engine.dialect.name])
        bring_up_to_date(connection)


def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL; when many do so at once SQLite refuses instead of waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
