"""A real terminal that a test writes to and reads back."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import TextIO

ENVIRONMENT = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
"""What a program on this terminal finds in its environment."""


@dataclass
class Screen:
    """What was written to a terminal so far; complete once its context has ended."""

    content: bytes = b""

    @property
    def written(self) -> str:
        """The text with all its escapes."""
        return self.content.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines without their colours, one after the other as they were drawn."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written)
        return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@contextmanager
def terminal() -> Iterator[tuple[TextIO, Screen]]:
    """Yield a terminal to write to, and its screen."""
    screen = Screen()
    ours, theirs = pty.openpty()
    reader = Thread(target=_read, args=(ours, screen))
    reader.start()
    try:
        with os.fdopen(theirs, "w") as stream:
            yield stream, screen
    finally:
        reader.join()
        os.close(ours)


def _read(descriptor: int, screen: Screen) -> None:
    """Read until nobody has the terminal open any more."""
    with suppress(OSError):
        while part := os.read(descriptor, 4096):
            screen.content += part
