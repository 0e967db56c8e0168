"""Rows that a killed process takes with it, so that the next one can count them as lost.

A prediction log keeps the number of rows that it has still to store in a file of a few bytes, which
is mapped into memory: to change it is no system call, and `kill -9` cannot hold it back. A process
holds a lock on its files as long as it lives; a file without one was left by a process that is
gone. Where the folder cannot be written nothing is kept, and nothing else changes: what is wrong
with the folder or a file in it is told, and never keeps a server from starting.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

__all__ = ["Tally", "Unstored"]

log = structlog.get_logger(__name__)

NUMBER = 8
"""Bytes of the number, in the machine's order; the model's name follows."""
SUFFIX, FRESH = ".rows", ".new"
FRESH_SECONDS = 60.0
"""So long a file may have its first name before it is taken for one that was left: it is not yet
locked at the very first."""


class Tally:
    """How many rows one prediction log has still to store."""

    def __init__(self, path: Path, model: str) -> None:
        """Begin at 0, in a new file; raises OSError."""
        self._path = path
        fresh = path.with_suffix(FRESH)
        with ExitStack() as undo:
            file = undo.enter_context(fresh.open("xb+", buffering=0))
            undo.callback(fresh.unlink, missing_ok=True)
            # Locked before it has its name, so that nobody takes it for one that was left. Written
            # and not only sized: a mapped page for which the disk has no room ends the process.
            fcntl.flock(file, fcntl.LOCK_EX)
            content = bytes(NUMBER) + model.encode()
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._content = undo.enter_context(mmap.mmap(file.fileno(), NUMBER))
            fresh.rename(path)
            undo.pop_all()
        self._file = file
        self._number = memoryview(self._content).cast("q")

    @property
    def rows(self) -> int:
        """The number."""
        return self._number[0]

    @rows.setter
    def rows(self, rows: int) -> None:
        self._number[0] = rows

    def close(self) -> None:
        """Leave nothing behind: what was not stored is counted already."""
        with suppress(OSError):  # a folder that went read-only: the file says 0
            self._path.unlink()
        self.leave()

    def leave(self) -> None:
        """Leave the number to the next process, as if this one had been killed."""
        self._number.release()
        self._content.close()
        self._file.close()


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
        for path in self._left():
            try:
                content = _take(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # it lives, or another was faster
            except OSError as error:
                log.warning(
                    "rows that a process lost cannot be counted",
                    reason=f"{error.strerror}: {path}",
                )
                continue
            if path.suffix == SUFFIX and len(content) > NUMBER:  # else it was never whole
                model = content[NUMBER:].decode(errors="replace")
                found[model] += int.from_bytes(content[:NUMBER], sys.byteorder)
        for model, rows in found.items():
            if rows:
                log.error(
                    "rows of the prediction log were lost with a process", model=model, rows=rows
                )
        return found

    def _left(self) -> Iterator[Path]:
        """Yield the files that may have been left."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return  # nothing was ever kept there; `open` tells what is wrong
        for path in paths:
            if path.suffix == SUFFIX:
                yield path
            elif path.suffix == FRESH:
                with suppress(OSError):
                    if path.stat().st_mtime < time.time() - FRESH_SECONDS:
                        yield path


def _take(path: Path) -> bytes:
    """Remove a file that was left, and return what it says."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(path)
        content = file.read()
        path.unlink()
    return content
