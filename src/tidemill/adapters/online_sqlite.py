"""The SQLite online store that Feast writes, read without Feast."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tidemill.adapters.online_store import NEVER_FILLED, Filled, OnlineStore, Row
from tidemill.bundle import FeatureView
from tidemill.errors import Unavailable

__all__ = ["SqliteOnlineStore"]

MAX_KEYS = 10_000
"""In one statement; SQLite binds 32,766 values at most (https://sqlite.org/limits.html)."""


class SqliteOnlineStore(OnlineStore):
    """One file; each thread has a connection of its own, a read is one snapshot."""

    def __init__(self, project: str, path: Path, timeout: float = 5.0) -> None:
        super().__init__(project)
        self._path = path
        self._timeout = timeout
        self._threads = threading.local()

    def advance(self, filled: Filled) -> None:
        """Record what the store is filled with now."""
        with self._errors(), self._connect() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS tidemill_filled (project TEXT PRIMARY KEY, body TEXT)"
            )
            connection.execute(
                "INSERT OR REPLACE INTO tidemill_filled VALUES (?, ?)",
                (self._project, filled.to_json()),
            )

    def _fetch(
        self, wanted: Sequence[tuple[FeatureView, list[bytes]]]
    ) -> tuple[Filled | None, list[dict[bytes, Row]]]:
        distinct = [(view, list(dict.fromkeys(identities))) for view, identities in wanted]
        stored: list[dict[bytes, Row]] = [{} for _ in wanted]
        longest = max((len(identities) for _, identities in distinct), default=0)
        size = MAX_KEYS // max(len(wanted), 1)
        with self._errors():
            connection = self._connect()
            connection.execute("BEGIN")
            try:
                record = self._record(connection)
                for start in range(0, longest, size):
                    part = [(view, ids[start : start + size]) for view, ids in distinct]
                    self._add(connection, part, stored)
            finally:
                connection.rollback()
        return (Filled.from_json(record) if record else None), stored

    def _record(self, connection: sqlite3.Connection) -> str | None:
        query = "SELECT body FROM tidemill_filled WHERE project = ?"
        try:
            found = connection.execute(query, (self._project,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return None
        return found and str(found[0])

    def _add(
        self,
        connection: sqlite3.Connection,
        wanted: Sequence[tuple[FeatureView, list[bytes]]],
        stored: list[dict[bytes, Row]],
    ) -> None:
        """Add the rows of all views by one statement: each costs more than the rows it finds."""
        query = " UNION ALL ".join(
            f"SELECT {number}, entity_key, feature_name, value, event_ts "  # noqa: S608 - a quoted name
            f'FROM "{self._table(view)}" WHERE entity_key IN ({",".join("?" * len(identities))})'
            for number, (view, identities) in enumerate(wanted)
        )
        keys = [identity for _, identities in wanted for identity in identities]
        for number, key, feature, value, stamp in connection.execute(query, keys):
            stored[number].setdefault(key, (float(stamp), {}))[1][feature] = value

    def _table(self, view: FeatureView) -> str:
        return f"{self._project}_{view.name}".replace('"', '""')

    def _connect(self) -> sqlite3.Connection:
        """Return this thread's connection, a new one when the file was lost or put back."""
        try:
            inode = self._path.stat().st_ino
        except OSError:  # opening it says why
            inode = 0
        held: tuple[int, sqlite3.Connection] | None = getattr(self._threads, "held", None)
        if held is None or held[0] != inode:
            made = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, timeout=self._timeout)
            if held:
                held[1].close()
            held = self._threads.held = (inode, made)
        return held[1]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(
                f"the online store {self._path} cannot be used: {error}", hint=NEVER_FILLED
            ) from error
