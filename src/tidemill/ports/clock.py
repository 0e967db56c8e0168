"""The time, as the project sees it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The instant that decides what is known, mature or stale."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...
