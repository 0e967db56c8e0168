"""Rows that a killed process takes with it, so that the next one can count them as lost.

A prediction log keeps the number of rows that it has still to store in a file of a few bytes, which
is mapped into memory: to change it is no system call, and `kill -9` cannot hold it back. A process
holds a lock on its files as long as it lives; a file without one was left by a process that is
gone. Where the folder cannot be written nothing is kept, and nothing else changes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import structlog

__all__ = ["Tally", "Unstored"]

log = structlog.get_logger(__name__)

NUMBER = 8
"""Bytes of the number, in the machine's order; the model's name follows."""
SUFFIX = ".rows"


class Tally:
    """How many rows one prediction log has still to store."""

    def __init__(self, path: Path, model: str) -> None:
        """Begin at 0, in a new file; raises OSError."""
        self._path = path
        fresh = path.with_suffix(".new")
        with fresh.open("xb+", buffering=0) as file:
            # Locked before it has its name, so that nobody takes it for one that was left. Written
            # and not only sized: a mapped page for which the disk has no room ends the process.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(bytes(NUMBER) + model.encode())
            self._lock = os.dup(file.fileno())
            self._content = mmap.mmap(self._lock, NUMBER)
        self._number = memoryview(self._content).cast("q")
        fresh.rename(path)

    @property
    def rows(self) -> int:
        """The number."""
        return self._number[0]

    @rows.setter
    def rows(self, rows: int) -> None:
        self._number[0] = rows

    def close(self) -> None:
        """Leave nothing behind: what was not stored is counted already."""
        self._path.unlink(missing_ok=True)
        self._number.release()
        self._content.close()
        os.close(self._lock)


class Unstored:
    """The tallies of all processes that share a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, model: str) -> Tally | None:
        """Return a tally for one log of a model; None, with the reason in the log, if it cannot."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return Tally(self._folder / f"{uuid.uuid4().hex}{SUFFIX}", model)
        except OSError as error:
            reason = f"{error.strerror}: {self._folder}"
            log.warning("rows that a kill would lose will not be counted", reason=reason)
            return None

    def collect(self) -> Counter[str]:
        """Return the rows by model that processes took with them, and forget them."""
        found: Counter[str] = Counter()
        for path in self._folder.glob(f"*{SUFFIX}"):
            with suppress(BlockingIOError, FileNotFoundError):  # it lives, or another was faster
                model, rows = _take(path)
                found[model] += rows
        for model, rows in found.items():
            if rows:
                log.error(
                    "rows of the prediction log were lost with a process", model=model, rows=rows
                )
        return found


def _take(path: Path) -> tuple[str, int]:
    """Remove a file that was left, and return what it says."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(path)
        content = file.read()
        path.unlink()
    return content[NUMBER:].decode(), int.from_bytes(content[:NUMBER], sys.byteorder)
