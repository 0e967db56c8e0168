"""Numbers that all workers share: a file in memory, a place in it for each name.

A number is read and written under a lock of the operating system on its own bytes, which a process
that dies lets go. Names are never forgotten, as they are few: API keys with a rate.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from hashlib import blake2b
from typing import Self

from tidemill.errors import Unavailable

__all__ = ["Cell", "Cells", "make_file"]

NAME = 16
"""Bytes of a name's hash, which precedes its number."""
ENTRY = struct.Struct(f"{NAME}sd")
PLACES = 65_536
SIZE = PLACES * ENTRY.size
"""Bytes of the file, 1.5 MB, of which only what is used takes memory."""
FREE = bytes(NAME)


class Cell:
    """One number, 0.0 at first; hold it as a context to change it."""

    def __init__(self, file: int, content: mmap.mmap, place: int) -> None:
        self._file = file
        self._content = content
        self._at = place * ENTRY.size

    def __enter__(self) -> Self:
        fcntl.lockf(self._file, fcntl.LOCK_EX, ENTRY.size, self._at)
        return self

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, ENTRY.size, self._at)

    @property
    def value(self) -> float:
        """The number as of now."""
        return float(struct.unpack_from("d", self._content, self._at + NAME)[0])

    @value.setter
    def value(self, value: float) -> None:
        struct.pack_into("d", self._content, self._at + NAME, value)


class Cells:
    """A file of `make_file`, as this process sees it."""

    def __init__(self, file: int) -> None:
        """`file` is a descriptor that all workers inherited."""
        self._file = file
        self._content = mmap.mmap(file, SIZE)

    def cell(self, name: str) -> Cell:
        """Return the number of a name, the same in every worker.

        Raises Unavailable when there are as many names as places.
        """
        wanted = blake2b(name.encode(), digest_size=NAME).digest()
        first = int.from_bytes(wanted[:4], "big")
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, SIZE)
        try:
            for step in range(PLACES):
                place = (first + step) % PLACES
                at = place * ENTRY.size
                if self._content[at : at + NAME] == FREE:
                    self._content[at : at + NAME] = wanted
                if self._content[at : at + NAME] == wanted:
                    return Cell(self._file, self._content, place)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, SIZE)
        raise Unavailable(
            f"more than {PLACES} rates of API keys since the server started",
            hint="restart the server",
        )


def make_file() -> int:
    """Return the descriptor of a new file of cells, which has no name and ends with its users."""
    file = os.memfd_create("tidemill-cells")
    os.truncate(file, SIZE)
    return file
