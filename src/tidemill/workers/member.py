"""A worker's end: what it asks of the parent, and through it of all workers."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from tidemill.workers.cells import Cells
from tidemill.workers.place import Place
from tidemill.workers.totals import Family
from tidemill.workers.wire import Answering, Wire

__all__ = ["Member"]


class Member:
    """One worker of a server."""

    def __init__(self, place: Place) -> None:
        self.number = place.number
        self.grpc_port = place.grpc_port
        self.cells = Cells(place.cells)
        self._sockets = place.sockets
        self._end = place.wire

    async def connect(self, answer: Answering) -> asyncio.Task[None]:
        """Answer the parent's calls from now on; the task ends when the parent is gone."""
        self._wire = await Wire.over(socket.socket(fileno=self._end), answer)
        return asyncio.create_task(self._wire.run())

    async def up(self) -> None:
        """Say that this worker accepts connections; returns when every worker once did.

        Raises Gone when the parent ends first.
        """
        await self._wire.ask("up")

    async def everyone(self, call: str, body: bytes) -> list[bytes]:
        """Return the answer of each worker that is up, this one's too; raises Gone."""
        return msgspec.msgpack.decode(await self._wire.ask(call, body), type=list[bytes])

    async def totals(self) -> list[Family]:
        """Return the counters of all workers together; raises Gone."""
        return msgspec.msgpack.decode(await self._wire.ask("totals"), type=list[Family])

    def listening(self, number: int | None = None) -> socket.socket:
        """Return this worker's listening socket, or another's, of which this is a copy."""
        wanted = self._sockets[self.number if number is None else number]
        return socket.socket(fileno=os.dup(wanted))

    def let_go(self) -> None:
        """Close what is inherited of listening sockets, so that each ends with its last user."""
        for file in self._sockets:
            os.close(file)
        self._sockets = ()
