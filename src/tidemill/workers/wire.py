"""Questions and answers between a parent and a worker, in both directions over one socket."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from tidemill.errors import Unavailable

__all__ = ["Gone", "Wire"]

log = structlog.get_logger(__name__)

SIZE = 4
"""Bytes of a frame's length, which precedes it, big-endian."""
ANSWER, FAILED = "", "!"
"""Calls of frames that answer."""


class Gone(Unavailable):
    """The other end has closed, or failed at the answer."""


class Frame(msgspec.Struct, array_like=True):
    """One question, or its answer under the same number."""

    number: int
    call: str
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode

Answering = Callable[[str, bytes], Awaitable[bytes]]
"""Takes a call and its body, returns the answer's."""


class Wire:
    """One end; both ask and answer at the same time, each question in a task of its own."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answering
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def over(cls, end: socket.socket, answer: Answering) -> Wire:
        """Return the wire over one end of a connected pair of Unix sockets, which it takes."""
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, answer)

    async def ask(self, call: str, body: bytes = b"") -> bytes:
        """Return the other end's answer; raises Gone when there will be none."""
        if self._closed:
            raise Gone(f"nobody is there to answer '{call}'")
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(Frame(number, call, body))
        try:
            return await self._asked[number]
        finally:
            self._asked.pop(number, None)

    async def run(self) -> None:
        """Read until the other end closes; questions that are open then raise Gone."""
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(SIZE), "big")
                self._take(_decode(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._closed = True
            self._writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(Gone("the other end is gone"))

    def _take(self, frame: Frame) -> None:
        if frame.call not in (ANSWER, FAILED):
            task = asyncio.create_task(self._reply(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (asked := self._asked.get(frame.number)) and not asked.done():
            if frame.call == FAILED:
                asked.set_exception(Gone("the other end failed; its log says why"))
            else:
                asked.set_result(frame.body)

    async def _reply(self, frame: Frame) -> None:
        try:
            body = await self._answer(frame.call, frame.body)
        except Gone:
            self._send(Frame(frame.number, FAILED, b""))
        except Exception:  # whatever it is, the other end must not wait for ever
            log.exception("a call between processes failed", call=frame.call)
            self._send(Frame(frame.number, FAILED, b""))
        else:
            self._send(Frame(frame.number, ANSWER, body))

    def _send(self, frame: Frame) -> None:
        if not self._closed:
            content = _encode(frame)
            self._writer.write(len(content).to_bytes(SIZE, "big") + content)
