"""An object store in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tidemill.errors import NotFound

__all__ = ["MemoryObjects"]


@dataclass
class MemoryObjects:
    """Keeps objects in a dictionary; `failure` is raised by `put` while it is set."""

    kept: dict[str, bytes] = field(default_factory=dict)
    failure: Exception | None = None
    puts: int = 0
    """Attempts to store, failed ones too."""

    def put(self, key: str, content: bytes | Path) -> str:
        """Store an object."""
        self.puts += 1
        if self.failure:
            raise self.failure
        self.kept[key] = content.read_bytes() if isinstance(content, Path) else content
        return f"memory://{key}"

    def get(self, key: str) -> bytes:
        """Return an object; raises NotFound."""
        if key not in self.kept:
            raise NotFound.among("object", key, self.kept)
        return self.kept[key]

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        return sorted(key for key in self.kept if key.startswith(prefix))
