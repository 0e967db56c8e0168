"""Instants as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

from tidemill.errors import UsageError

__all__ = ["instant"]


def instant(text: str) -> datetime:
    """Read an instant in ISO 8601, UTC unless it says otherwise; raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is no instant", hint="write 2013-04-01T00:00+00:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
