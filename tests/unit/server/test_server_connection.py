"""The connection over real sockets: order, framing, bounds, and what a client may not do."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.server import connection
from tidemill.server.connection import DISCARDED, PIPELINED, Connection
from tidemill.server.messages import Request, Response
from tidemill.server.protocol import Rejected
from tidemill.server.traffic import Traffic
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

    def admit(self, request: Request, pending: int) -> bool:
        self.pending.append(pending)
        if request.path.startswith("/no"):
            raise Rejected("forbidden", "no", 403, {b"x-why": b"no"})
        return request.path != "/bodyless"

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.path)
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


def test_a_connection_answers_one_request_after_the_other() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        for number in range(3):
            await client.send(post(b"/echo", b"%d" % number))
            answer = await client.answer()
            assert (answer.status, answer.closes) == (200, False)
            assert answer.body["body"] == str(number)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["date"].endswith("GMT")
        assert world.app.pending == [0, 0, 0]

    run(test)


def test_paths_are_decoded_and_header_names_are_not_case_sensitive() -> None:
    async def test(world: World) -> None:
        sent = b"GET /a%20b/%C3%A9?x=1#y HTTP/1.1\r\nHOST: a\r\nX-One: 1\r\nx-oNE: 2\r\n\r\n"
        seen = (await world.ask(sent)).body
        assert (seen["method"], seen["path"]) == ("GET", "/a b/é")
        assert seen["headers"] == {"host": "a", "x-one": "1, 2"}
        absolute = b"GET http://a:80/b?c HTTP/1.1\r\nhost: a\r\n\r\n"
        assert (await world.ask(absolute)).body["path"] == "/b"

    run(test)


def test_pipelined_requests_are_answered_in_order_also_the_refused_ones() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        slow = post(b"/wait", b"")
        await client.send(slow + post(b"/no", b"xx") + post(b"/echo", b"last") + GET)
        await until(lambda: world.app.asked == ["/wait"])
        assert world.traffic.pending == 4
        world.app.gate.set()
        answers = [await client.answer() for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 403, 200, 200]
        assert [a.body.get("path") for a in answers] == ["/wait", None, "/echo", "/echo"]
        assert answers[2].body["body"] == "last"
        assert world.app.pending == [0, 1, 2, 3]
        assert world.traffic.pending == 0

    run(test)


def test_a_pipeline_is_read_ahead_only_so_far() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(GET * (PIPELINED + 50))
        answers = [await client.answer() for _ in range(PIPELINED)]
        assert [answer.closes for answer in answers] == [False] * (PIPELINED - 1) + [True]
        assert await client.ended()
        assert len(world.app.asked) == PIPELINED

    run(test)


def test_a_head_may_arrive_byte_by_byte_and_a_body_in_chunks() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        head = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        client.writer.writelines(head[n : n + 1] for n in range(len(head)))
        await client.send(
            b"3\r\nabc\r\n", b"2;x=y\r\nd", b"e\r\n0\r\nauthorization: b\r\n\r\n" + GET
        )
        first, second = await client.answer(), await client.answer()
        assert first.body["body"] == "abcde"
        assert "authorization" not in first.body["headers"]  # a trailer is no header
        assert second.status == 200

    run(test)


def test_a_body_that_is_not_wanted_is_not_kept() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/bodyless", b"x" * 1000) + post(b"/bodyless", b"x" * 1025) + GET)
        assert (await client.answer()).body["body"] == ""
        assert (await client.answer()).status == 413
        assert (await client.answer()).status == 200

    run(test, max_body_bytes=1024)


def test_head_answers_with_the_length_alone() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(GET.replace(b"GET", b"HEAD"))
        answer = await client.answer(bodyless=True)
        assert int(answer.headers["content-length"]) > 0
        await client.send(GET)
        assert (await client.answer()).status == 200

    run(test)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /echo HTTP/1.0\r\n\r\n",
        b"GET /echo HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ],
    ids=["1.0", "1.0 that would stay", "close", "upgrade"],
)
def test_the_last_answer_closes(head: bytes) -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(head + GET)
        answer = await client.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert await client.ended()
        assert world.app.asked == ["/echo"]

    run(test)


def test_while_it_drains_the_last_of_a_pipeline_closes() -> None:
    async def test(world: World) -> None:
        world.app.draining = True
        client = await world.connect()
        await client.send(GET * 3)
        assert [(await client.answer()).closes for _ in range(3)] == [False, False, True]
        assert await client.ended()

    run(test)


def test_shutdown_closes_the_idle_and_lets_the_others_finish() -> None:
    async def test(world: World) -> None:
        idle, busy = await world.connect(), await world.connect()
        await busy.send(post(b"/wait", b"1"))
        await until(lambda: world.app.asked == ["/wait"] and len(world.traffic.connections) == 2)
        world.app.draining = True
        for one in tuple(world.traffic.connections):
            one.shutdown()
        assert await idle.ended()
        world.app.gate.set()
        assert (await busy.answer()).closes
        assert await busy.ended()
        assert world.traffic.idle

    run(test)


def test_a_body_is_asked_for_with_100_continue() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        head, body = post(b"/echo", b"abc", b"expect: 100-continue\r\n")[:-3], b"abc"
        await client.send(GET + head)
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 100
        await client.send(body)
        assert (await client.answer()).body["body"] == "abc"

    run(test)


def test_a_body_that_is_refused_is_not_asked_for() -> None:
    async def test(world: World) -> None:
        for path, size, status in ((b"/no", 3, 403), (b"/echo", 2000, 413)):
            client = await world.connect()
            await client.send(post(path, b"x" * size, b"expect: 100-continue\r\n")[:-size])
            answer = await client.answer()
            assert (answer.status, answer.closes) == (status, True)
            assert await client.ended()
        assert world.app.asked == []

    run(test, max_body_bytes=1024)


def test_a_refused_request_keeps_the_connection_if_its_body_comes() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/no", b"x" * 100)[:-50], b"x" * 50 + GET)
        refused, after = await client.answer(), await client.answer()
        assert (refused.status, refused.closes, refused.headers["x-why"]) == (403, False, "no")
        assert after.status == 200
        assert world.app.refused == ["forbidden"]

    run(test)


def test_a_refused_request_does_not_wait_for_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)

    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/no", b"x" * 100)[:-50])
        answer = await client.answer()
        assert (answer.status, answer.closes) == (403, True)
        assert world.app.refused == ["forbidden"]

    run(test)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_read_to_its_end_and_refused(chunked: bool) -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        body = b"x" * 1025
        sent = post(b"/echo", body)
        if chunked:
            sent = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            sent += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        await client.send(sent + post(b"/echo", body[:-1]))
        answer = await client.answer()
        assert (answer.status, answer.body["code"]) == (413, "body_too_large")
        assert "1024 bytes" in answer.body["error"]
        assert len((await client.answer()).body["body"]) == 1024

    run(test, max_body_bytes=1024)


def test_a_much_too_large_body_is_not_read_to_its_end() -> None:
    async def test(world: World) -> None:
        size = (DISCARDED + 1) * 1024
        answer = await world.ask(post(b"/echo", b"x" * 2 * size)[:-size])
        assert (answer.status, answer.closes) == (413, True)

    run(test, max_body_bytes=1024)


def test_a_head_has_a_size_however_it_arrives() -> None:
    async def test(world: World) -> None:
        fits = GET[:-2] + b"a: " + b"a" * 2000 + b"\r\n\r\n"
        large = GET[:-2] + b"a: " + b"a" * 2048 + b"\r\n\r\n"
        body = post(b"/echo", b"x" * 5000)  # in the same piece as the head behind it
        assert (await world.ask(fits)).status == 200
        assert (await world.ask(fits[:1000], fits[1000:])).status == 200
        for pieces in ((large,), (large[:1000], large[1000:]), (GET[:-2], b"a" * 2049)):
            answer = await world.ask(*pieces)
            assert (answer.status, answer.body["code"]) == (431, "head_too_large")
            assert answer.closes
        client = await world.connect()
        await client.send(body + fits[:500], fits[500:] + body + large)
        statuses = [(await client.answer()).status for _ in range(4)]
        assert statuses == [200, 200, 200, 431]

    run(test)


def test_an_endless_trailer_is_refused() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        head = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        await client.send(head + b"1\r\na\r\n0\r\nx: ", b"y" * 1500, b"y" * 1500)
        answer = await client.answer()
        assert (answer.status, answer.closes) == (431, True)

    run(test)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET /echo HTTP/1.1\r\nhost: a\r\n", "request_timeout"),
        (b"\r\n", "request_timeout"),
        (GET + b"GET /ec", "request_timeout"),
        (post(b"/echo", b"abc")[:-1], "request_timeout"),
    ],
    ids=["head", "line ends", "second head", "body"],
)
def test_what_does_not_arrive_in_time_is_refused(sent: bytes, code: str) -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(sent)
        if sent.startswith(GET):
            assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.body["code"], answer.closes) == (408, code, True)
        assert await client.ended()

    run(test, limits={"head_seconds": 0.1, "body_seconds": 0.1})


def test_the_time_of_a_head_is_not_prolonged_by_its_pieces() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        sent = asyncio.create_task(client.send(GET[:20], *([b"a: b\r\n"] * 1000)))
        assert (await client.answer()).status == 408
        sent.cancel()

    run(test, limits={"head_seconds": 0.1, "max_head_bytes": 100_000})


def test_a_silent_connection_is_closed_without_a_word() -> None:
    async def test(world: World) -> None:
        silent, once = await world.connect(), await world.connect()
        await once.send(GET)
        assert (await once.answer()).status == 200
        assert await silent.ended()
        assert await once.ended()
        assert world.app.refused == []
        await until(lambda: world.traffic.idle)

    run(test, keep_alive_seconds=1)


def test_a_slow_answer_is_not_cut_by_the_times_of_the_client() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/wait", b""))
        await asyncio.sleep(0.2)
        world.app.gate.set()
        assert (await client.answer()).status == 200

    run(test, limits={"head_seconds": 0.05, "body_seconds": 0.05})


def test_a_client_that_does_not_read_stops_being_read_and_is_cut() -> None:
    async def test(world: World) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", world.port))
            many = GET.replace(b"echo", b"large") * 100
            await loop.sock_sendall(deaf, many)
            await until(lambda: bool(stuck(world)))
            answered = len(world.app.asked)
            await asyncio.sleep(0.1)
            assert len(world.app.asked) == answered < 100
            (one,) = stuck(world)
            assert one._transport.get_write_buffer_size() < 300_000
            await until(lambda: world.traffic.idle)

    run(test, keep_alive_seconds=1)


def test_a_client_that_reads_late_gets_all() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(GET.replace(b"echo", b"large") * 100)
        await until(lambda: bool(stuck(world)))
        assert sum([len((await client.answer()).content) for _ in range(100)]) == 10_000_000
        await client.send(GET)
        assert (await client.answer()).status == 200

    run(test)


def test_a_client_that_left_takes_its_place_until_it_is_answered() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/wait", b""))
        await until(lambda: world.app.asked == ["/wait"])
        client.reset()
        await until(lambda: not world.traffic.connections)
        assert world.traffic.pending == 1
        assert not world.traffic.idle
        world.app.gate.set()
        await until(lambda: world.traffic.idle)

    run(test)


def test_what_waits_behind_is_dropped_with_the_client() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/wait", b"") + GET)
        await until(lambda: world.traffic.pending == 2)
        client.writer.transport.abort()
        (one,) = world.traffic.connections
        one.abort()
        await until(lambda: world.traffic.idle)
        assert world.app.asked == ["/wait"]

    run(test)


def test_a_client_that_sends_no_more_is_answered() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/wait", b""))
        client.writer.write_eof()
        await asyncio.sleep(0.02)
        world.app.gate.set()
        assert (await client.answer()).closes
        assert await client.ended()
        half = await world.connect()
        await half.send(GET + post(b"/echo", b"xyz")[:-1])
        half.writer.write_eof()
        assert (await half.answer()).status == 200
        assert await half.ended()

    run(test)


P = b"POST /echo HTTP/1.1\r\nhost: a\r\n"
SMUGGLED = {
    "length twice": P + b"content-length: 2\r\ncontent-length: 2\r\n\r\nab",
    "two lengths": P + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc",
    "list of lengths": P + b"content-length: 2, 2\r\n\r\nab",
    "signed length": P + b"content-length: +2\r\n\r\nab",
    "negative length": P + b"content-length: -2\r\n\r\nab",
    "hexadecimal length": P + b"content-length: 0x2\r\n\r\nab",
    "huge length": P + b"content-length: 99999999999999999999999\r\n\r\nab",
    "empty length": P + b"content-length:\r\n\r\nab",
    "length and chunks": P + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": P + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "chunks last but one": P + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks misspelt": P + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding without chunks": P + b"transfer-encoding: gzip\r\n\r\nab",
    "chunks twice": P + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "chunks in 1.0": b"POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size": P + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunk size of line feeds": P + b"transfer-encoding: chunked\r\n\r\n1\na\n0\n\n",
    "chunk longer than it says": P + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "huge chunk": P + b"transfer-encoding: chunked\r\n\r\n11111111111111111\r\na\r\n",
    "space before the colon": P + b"content-length : 2\r\n\r\nab",
    "folded line": P + b"a: b\r\n c\r\n\r\n",
    "space before the first name": b"GET /echo HTTP/1.1\r\n host: a\r\n\r\n",
    "bare line feeds": b"GET /echo HTTP/1.1\nhost: a\n\n",
    "one bare line feed": b"GET /echo HTTP/1.1\r\nhost: a\nb: c\r\n\r\n",
    "bare carriage return": b"GET /echo HTTP/1.1\r\nhost: a\rb: c\r\n\r\n",
    "zero byte": b"GET /echo HTTP/1.1\r\nhost: a\0b\r\n\r\n",
    "no name": P + b": a\r\n\r\n",
    "name with a bracket": P + b"a(b): a\r\n\r\n",
    "body behind an upgrade": P
    + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nab",
    "tunnel": b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "other version": b"GET /echo HTTP/1.2\r\nhost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in the line": b"GET /echo HTTP/2.0\r\nhost: a\r\n\r\n",
    "HTTP/0.9": b"GET /echo\r\n\r\n",
    "unknown method": b"get /echo HTTP/1.1\r\nhost: a\r\n\r\n",
    "bytes in the path": b"GET /\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n",
    "relative path": b"GET echo HTTP/1.1\r\nhost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_what_two_parties_could_read_differently_is_refused(sent: bytes) -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        await client.send(GET + sent + GET)
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.body["code"]) == (400, "malformed_http")
        assert answer.closes
        assert await client.ended()
        assert world.app.asked == ["/echo"]

    run(test, limits={"body_seconds": 0.1})


requests = st.lists(
    st.tuples(st.sampled_from([b"/echo", b"/no", b"/wait"]), st.binary(max_size=40), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(asked=requests, cuts=st.lists(st.integers(1, 60), max_size=12))
def test_however_requests_are_cut_they_are_answered_in_order(
    asked: list[tuple[bytes, bytes, bool]], cuts: list[int]
) -> None:
    stream = b""
    for path, body, chunked in asked:
        if chunked:
            stream += b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path
            stream += b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            stream += b"0\r\n\r\n"
        else:
            stream += post(path, body)

    async def test(world: World) -> None:
        world.app.gate.set()
        rest, pieces = stream, []
        for cut in cuts:
            pieces.append(rest[:cut])
            rest = rest[cut:]
        client = await world.connect()
        for piece in [*pieces, rest]:
            client.writer.write(piece)
            await asyncio.sleep(0)
        for path, body, _ in asked:
            answer = await client.answer()
            assert answer.status == (403 if path == b"/no" else 200)
            if answer.status == 200:
                assert answer.body["path"] == path.decode()
                assert answer.body["body"] == body.decode("latin-1")
        assert world.traffic.pending == 0

    run(test)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*SMUGGLED.values(), GET, b"\r\n", b"\0", b"x"]) | st.binary(max_size=9)
    )
)
def test_no_bytes_at_all_break_it(sent: list[bytes]) -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        client.writer.write(b"".join(sent))
        client.writer.write_eof()
        await client.ended()
        await until(lambda: world.traffic.idle)
        assert (await world.ask(GET)).status == 200

    run(test)
