"""A ledger in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.ledger import Entry, Record, chain
from tidemill.errors import Conflict

__all__ = ["MemoryLedger"]


@dataclass
class MemoryLedger:
    """Keeps the chain in a list."""

    kept: list[Entry] = field(default_factory=list)

    def append(self, record: Record, *, after: Entry | None = None) -> Entry:
        """Put a record at the end; raises Conflict when `after` is not the end any more."""
        last = self.kept[-1] if self.kept else None
        if after and after != last:
            raise Conflict(f"entry {after.seq} is no longer the end of the ledger")
        self.kept.append(chain(record, last))
        return self.kept[-1]

    def entries(self) -> list[Entry]:
        """Return the whole chain in its order."""
        return list(self.kept)
