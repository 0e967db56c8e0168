"""A clock for tests."""

from __future__ import annotations

from datetime import datetime

__all__ = ["FixedClock"]


class FixedClock:
    """Implements `ports.clock.Clock`: it stands where it is put."""

    poll_seconds = 0.01

    def __init__(self, instant: datetime) -> None:
        self.instant = instant

    def now(self) -> datetime:
        """Return the instant."""
        return self.instant
