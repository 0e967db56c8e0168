"""The object store: data, models, logs and evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["ObjectStore"]


class ObjectStore(Protocol):
    """A flat space of immutable objects under `/`-separated keys."""

    def put(self, key: str, content: bytes | Path) -> str:
        """Store `content` under `key`, whole or not at all, and return its URL.

        Raises Unavailable when the store does not answer or is full.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`; raises NotFound."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        ...
