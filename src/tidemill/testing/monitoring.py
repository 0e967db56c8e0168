"""What the monitor and the governor remember, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.ports.monitoring import Standing

__all__ = ["MemoryStandings"]

NOTHING = Standing({}, (), {}, {})


@dataclass
class MemoryStandings:
    """Implements `ports.monitoring.Standings`."""

    standing: Standing = NOTHING
    before: Callable[[], None] = lambda: None
    """Is called before each answer: it may wait, or raise what a store raises."""
    looks: int = 0

    def read(self) -> Standing:
        """Return what was put in."""
        self.looks += 1
        self.before()
        return self.standing
