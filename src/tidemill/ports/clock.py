"""The time, as the project sees it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The instant that decides what is known, mature or stale."""

    @property
    def poll_seconds(self) -> float:
        """Wall time between two looks of whoever waits for an instant."""
        ...

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...
