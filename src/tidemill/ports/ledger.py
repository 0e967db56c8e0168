"""The promotion ledger, kept."""

from __future__ import annotations

from typing import Protocol

from tidemill.domain.ledger import Entry, Record

__all__ = ["Ledger"]


class Ledger(Protocol):
    """An append-only chain of entries; see `tidemill.domain.ledger`."""

    def append(self, record: Record, *, after: Entry | None = None) -> Entry:
        """Put a record at the end of the chain and return its entry.

        With `after`, only if that entry is still the last one; else raises Conflict.
        """
        ...

    def entries(self) -> list[Entry]:
        """Return the whole chain in its order."""
        ...
