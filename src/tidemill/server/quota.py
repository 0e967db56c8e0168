"""Daily quotas: how many requests a key has made since midnight UTC, on this machine.

A request is counted in memory. Once a second a thread adds what is new to a SQLite file and reads
the day's sums: so the processes of one machine share a quota, and a restart forgets at most the
last second. While the file cannot be written each process goes on with what it knows.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Lock, Thread

import structlog

from tidemill.errors import Unavailable

__all__ = ["Quota"]

log = structlog.get_logger(__name__)

TABLE = """
CREATE TABLE IF NOT EXISTS quota (
    day TEXT NOT NULL, key TEXT NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY (day, key)
) WITHOUT ROWID
"""
ADD = """
INSERT INTO quota VALUES (?, ?, ?)
ON CONFLICT (day, key) DO UPDATE SET requests = requests + excluded.requests
"""
KEPT = timedelta(days=7)
"""Counts of days before are kept so long: a clock that jumped ahead and back gives nothing back."""
LOCK_SECONDS = 5.0
"""For the other processes' writes, in the thread."""


class Quota:
    """Counts requests by key and day; raises Unavailable when its file cannot be made."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        """`now` is the machine's own time, in UTC."""
        self._path = path
        self._now = now
        self._day = now().date()
        self._fresh: Counter[str] = Counter()
        self._lock = Lock()
        self._busy = self._failing = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._known = self._exchange({}, self._day)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(
                f"the counts of the keys' quotas cannot be kept in {path}: {error}",
                hint="mend the folder that storage.state names, or give no key a quota",
            ) from error

    def take(self, key: str, most: int) -> int:
        """Count one request and return 0, or count none and return the seconds to the next day."""
        now = self._now()
        with self._lock:
            if now.date() != self._day:
                self._day, self._known = now.date(), {}
                self._fresh.clear()
            if self._known.get(key, 0) + self._fresh[key] >= most:
                return math.ceil((_midnight(self._day) - now).total_seconds())
            self._fresh[key] += 1
        return 0

    def save(self) -> Thread | None:
        """Once a second: have the counts exchanged with the file; returns at once."""
        if self._busy:
            return None
        self._busy = True
        thread = Thread(target=self._save, name="quota", daemon=True)
        thread.start()
        return thread

    def _save(self) -> None:
        with self._lock:
            day, fresh = self._day, dict(self._fresh)
        try:
            known = self._exchange(fresh, day)
            with self._lock:
                if day == self._day:
                    self._known = known
                    self._fresh.subtract(fresh)
            self._failing = False
        except (OSError, sqlite3.Error) as error:
            if not self._failing:
                log.error(
                    "the quotas' counts are not saved, this process goes on", reason=str(error)
                )
            self._failing = True
        finally:
            self._busy = False

    def _exchange(self, fresh: dict[str, int], day: date) -> dict[str, int]:
        """Add to the day's counts and return them; days long before are forgotten."""
        rows = [(str(day), key, count) for key, count in fresh.items() if count]
        with closing(sqlite3.connect(self._path, timeout=LOCK_SECONDS)) as file, file:
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(TABLE)
            if rows:
                file.execute("DELETE FROM quota WHERE day < ?", (str(day - KEPT),))
                file.executemany(ADD, rows)
            counts = file.execute("SELECT key, requests FROM quota WHERE day = ?", (str(day),))
            return dict(counts.fetchall())


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
