"""What a server of several processes asks of the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from tidemill.workers.totals import Family

__all__ = ["Crew"]


class Crew(Protocol):
    """The workers of one server, as one of them sees it."""

    async def connect(self, answer: Callable[[str, bytes], Awaitable[bytes]]) -> asyncio.Task[None]:
        """Answer calls from now on; the task ends when there is no parent any more."""
        ...

    async def up(self) -> None:
        """Say that this worker accepts connections; returns when every worker once did."""
        ...

    async def everyone(self, call: str, body: bytes) -> list[bytes]:
        """Return the answer of each worker that is up, this one's too."""
        ...

    async def totals(self) -> list[Family]:
        """Return the counters of all workers together."""
        ...

    def listening(self, number: int | None = None) -> socket.socket:
        """Return this worker's listening socket, or another's."""
        ...

    def let_go(self) -> None:
        """Close what is inherited of listening sockets."""
        ...
