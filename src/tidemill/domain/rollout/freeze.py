"""Freeze windows: the hours of a week in which no canary gets more traffic by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["Day", "Freeze", "frozen_until", "make_freeze"]

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Freeze:
    """A window that begins on each of some weekdays, by the clock on the wall of a time zone."""

    days: tuple[Day, ...]
    start: time
    end: time
    """Exclusive; not after `start`: on the next day, so that 00:00 to 00:00 is the whole day."""
    zone: str
    """IANA time zone, `Europe/Berlin`."""


def make_freeze(days: Iterable[str], start: str, end: str, zone: str) -> Freeze:
    """Return a window; days are `mon` or `Mon`, times `HH:MM`."""
    named = tuple(day for day in DAYS if day in {name.lower() for name in days})
    return Freeze(named, time.fromisoformat(start), time.fromisoformat(end), zone)


def frozen_until(freezes: Iterable[Freeze], at: datetime) -> datetime | None:
    """Return when the windows end that `at` lies in, UTC; None when it lies in none.

    A window whose zone is not known on this machine never ends: it is a day from ending.
    """
    ends = [end for freeze in freezes for start, end in _windows(freeze, at) if start <= at < end]
    return max(ends, default=None)


def _windows(freeze: Freeze, at: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the windows that may hold `at`: those of this day and the day before.

    Where the clock is turned an hour of the wall comes twice or never; then the window is the
    longer of the two that it might mean.
    """
    try:
        zone = ZoneInfo(freeze.zone)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        yield at, at + DAY
        return
    today = at.astimezone(zone).date()
    # One day further on either side: where a zone skips a day its dates are no neighbours.
    for day in (today + n * DAY for n in (-2, -1, 0, 1)):
        if DAYS[day.weekday()] in freeze.days:
            last = day if freeze.end > freeze.start else day + DAY
            starts = _instants(datetime.combine(day, freeze.start), zone)
            ends = _instants(datetime.combine(last, freeze.end), zone)
            yield min(starts), max(ends)


def _instants(wall: datetime, zone: tzinfo) -> list[datetime]:
    """Return the instants that a clock on the wall may mean, UTC."""
    return [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
