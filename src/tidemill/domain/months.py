"""Periods of raw data: months in UTC, `YYYY-MM`, and `static` for tables without time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tidemill.errors import UsageError

__all__ = ["STATIC", "bounds", "month_of", "months"]

STATIC = "static"


def months(first: str, last: str) -> list[str]:
    """List the months from `first` to `last`, inclusive; raises UsageError."""
    begin, end = _number(first), _number(last)
    if begin > end:
        raise UsageError(
            f"the range {first} to {last} is empty", hint="put the earlier month first"
        )
    return [f"{n // 12:04d}-{n % 12 + 1:02d}" for n in range(begin, end + 1)]


def bounds(month: str) -> tuple[datetime, datetime]:
    """Return the first instant of a month and of the next one, in UTC; raises UsageError."""
    begin = _number(month)
    start, end = (datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in (begin, begin + 1))
    return start, end


def month_of(instant: datetime) -> str:
    """Return the month that holds an aware instant."""
    utc = instant.astimezone(UTC)
    return f"{utc.year:04d}-{utc.month:02d}"


def _number(month: str) -> int:
    """Return the month's number since year 0."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month) or month < "0001":
        raise UsageError(f"'{month}' is no month", hint="write YYYY-MM, such as 2013-01")
    year, number = month.split("-")
    return int(year) * 12 + int(number) - 1
