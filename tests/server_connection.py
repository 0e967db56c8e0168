"""A connection over real sockets, around an application that answers what it got."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tidemill.server.connection import Connection
from tidemill.server.messages import Request, Response
from tidemill.server.protocol import Rejected
from tidemill.server.traffic import Traffic
from tidemill.server.trail import Trail
from tidemill.settings.serving import ServingSettings

HOST = b"host: a\r\n"
GET = b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"


@dataclass
class Echo:
    """An application that answers what it got; `/wait` waits for `gate`, `/no` is refused."""

    draining: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    turned_away: int = 0
    trails: list[Trail] = field(default_factory=list)

    def admit(self, request: Request, pending: int) -> bool:
        self.pending.append(pending)
        if request.path.startswith("/no"):
            raise Rejected("forbidden", "no", 403, {b"x-why": b"no"})
        return request.path != "/bodyless"

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.path)
        self.trails.append(request.trail)
        if request.path == "/wait":
            await self.gate.wait()
        if request.path == "/large":
            return Response(200, b"x" * 100_000)
        seen = {
            "method": request.method,
            "path": request.path,
            "headers": {k.decode(): v.decode() for k, v in request.headers.items()},
            "body": bytes(request.body).decode("latin-1"),
        }
        return Response(200, json.dumps(seen).encode())

    def cut(self, request: Request) -> None:
        self.cut_off.append(request.path)

    def turn_away(self) -> None:
        self.turned_away += 1

    def refuse(self, request: Request, refusal: Rejected) -> Response:
        self.refused.append(refusal.code)
        return Response(refusal.status, refusal.body(), headers=refusal.headers)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        """Send pieces that arrive one by one."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.01)

    async def answer(self, *, bodyless: bool = False) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = 0 if bodyless else int(headers.get("content-length", 0))
        return Answer(int(status.split()[1]), headers, await self.reader.readexactly(length))

    def reset(self) -> None:
        """Break the connection off: what is closed in order could still be read."""
        at_once = struct.pack("ii", 1, 0)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.writer.transport.abort()

    async def ended(self) -> bool:
        """Whether the server sent nothing more and closed."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@dataclass
class World:
    app: Echo
    traffic: Traffic
    port: int
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, *pieces: bytes) -> Answer:
        client = await self.connect()
        await client.send(*pieces)
        return await client.answer()


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    app = Echo()
    limits = {"max_head_bytes": 2048} | options.pop("limits", {})
    traffic = Traffic(app, ServingSettings(limits=limits, **options))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(traffic), "127.0.0.1", 0)
    made = World(app, traffic, server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        for client in made.clients:
            client.writer.transport.abort()
        app.gate.set()
        await until(lambda: traffic.idle)
        server.close()


def stuck(world: World) -> list[Any]:
    """Connections whose client does not take its answers."""
    connections: set[Any] = set(world.traffic.connections)
    return [one for one in connections if one._stuck]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def run(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def within() -> None:
        async with world(**options) as made:
            await test(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(within())


def post(path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n"
    return head % (path, headers, len(body)) + body
