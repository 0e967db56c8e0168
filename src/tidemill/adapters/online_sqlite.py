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
        with self._errors():
            connection = self._connect()
            connection.execute("BEGIN")
            try:
                record = self._record(connection)
                rows = [self._rows(connection, view, ids) for view, ids in wanted]
            finally:
                connection.rollback()
        return (Filled.from_json(record[0]) if record else None), rows

    def _record(self, connection: sqlite3.Connection) -> tuple[str] | None:
        known = "SELECT 1 FROM sqlite_master WHERE name = 'tidemill_filled'"
        if connection.execute(known).fetchone() is None:
            return None
        query = "SELECT body FROM tidemill_filled WHERE project = ?"
        found: tuple[str] | None = connection.execute(query, (self._project,)).fetchone()
        return found

    def _rows(
        self, connection: sqlite3.Connection, view: FeatureView, identities: list[bytes]
    ) -> dict[bytes, Row]:
        distinct = list(dict.fromkeys(identities))
        table = f"{self._project}_{view.name}".replace('"', '""')
        marks = ",".join("?" * len(distinct))
        cursor = connection.execute(
            f"SELECT entity_key, feature_name, value, event_ts "  # noqa: S608 - a quoted name
            f'FROM "{table}" WHERE entity_key IN ({marks})',
            distinct,
        )
        found: dict[bytes, Row] = {}
        for key, feature, value, stamp in cursor:
            found.setdefault(key, (float(stamp), {}))[1][feature] = value
        return found

    def _connect(self) -> sqlite3.Connection:
        """Return this thread's connection, a new one when the file was lost or put back."""
        inode = self._path.stat().st_ino if self._path.exists() else 0
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
