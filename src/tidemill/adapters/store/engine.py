"""The engine of the store."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError, OperationalError

from tidemill.adapters.store.tables import metadata
from tidemill.errors import Unavailable

__all__ = ["open_store"]


def open_store(url: str) -> Engine:
    """Open the store at an absolute SQLAlchemy URL, its schema up to date.

    Raises Unavailable when the database does not answer or cannot be written.
    """
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
    try:
        _create_tables(engine)
    except OperationalError as error:
        raise Unavailable(
            f"the store {engine.url} cannot be opened: {error.orig}",
            hint="check storage.database and the free disk space, then run the command again",
        ) from error
    return engine


def _create_tables(engine: Engine) -> None:
    """Create the tables that are missing; other processes may be doing the same right now."""
    missing = set(metadata.tables) - set(inspect(engine).get_table_names())
    for table in metadata.sorted_tables:
        if table.name in missing:
            try:
                table.create(engine, checkfirst=True)
            except DBAPIError:
                if not inspect(engine).has_table(table.name):
                    raise


def _pragmas(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
