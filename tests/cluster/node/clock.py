"""Time as the API writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Return the time as a `metav1.Time`: seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """Return the time as a `metav1.MicroTime`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
