"""Clocks: the system's, and one that replays the past."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.files import place

__all__ = ["ReplayClock", "SystemClock"]


class SystemClock:
    """The machine's wall clock."""

    poll_seconds = 0.5

    def now(self) -> datetime:
        """Return the current instant in UTC."""
        return datetime.now(UTC)


class ReplayClock:
    """A clock that stands where a file says, so that every process of a replay agrees.

    The file holds `{"now": "2013-04-01T00:00:00+00:00"}` and is replaced whole by `set`.
    """

    poll_seconds = 0.05
    """A day may pass in a second, every step of which waits for the last of those who look; a look
    costs 0.1 ms of CPU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._now = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """Return the instant in the file; raises ConfigError when it cannot be read."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._now = datetime.fromisoformat(json.loads(self._path.read_text())["now"])
                self._stamp = stamp
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"the replay clock {self._path} cannot be read: {error}",
                hint="unset TIDEMILL_CLOCK to use the system's clock",
            ) from error
        return self._now

    def set(self, now: datetime) -> None:
        """Move the clock; it never goes back. Raises ConfigError, Unavailable."""
        if self._path.exists() and now < self.now():
            raise ConfigError(
                f"the replay clock {self._path} stands at {self.now()}, it cannot go back to {now}",
                hint="remove that file to begin the replay anew",
            )
        place(self._path, json.dumps({"now": now.astimezone(UTC).isoformat()}).encode())
