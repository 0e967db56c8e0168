"""Files that are read again when they change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidemill.errors import ConfigError

__all__ = ["Watch", "read_file"]

Stamp = tuple[int, int, int] | None


def read_file(path: Path) -> bytes:
    """Return a file's content; raises ConfigError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


class Watch:
    """Tells whether one of some files is not the one that was seen last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Return whether a file was replaced, written or removed since the last call."""
        now = self._stamps()
        changed, self._seen = now != self._seen, now
        return changed

    def _stamps(self) -> list[Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
