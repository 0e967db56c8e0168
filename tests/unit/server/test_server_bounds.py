"""What a client may take of a connection: size, time, and answers that it does not read."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.server_connection import (
    GET,
    World,
    post,
    run,
    stuck,
    until,
)

from tidemill.server import connection
from tidemill.server.connection import DISCARDED


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


def test_no_more_connections_are_held_than_may_be() -> None:
    async def test(world: World) -> None:
        silent, half = await world.connect(), await world.connect()
        await half.send(GET[:20])
        busy = await world.connect()
        await busy.send(post(b"/wait", b""))
        await until(lambda: len(world.traffic.connections) == 3)
        for _ in range(5):
            assert await (await world.connect()).ended()
        assert (world.app.turned_away, world.app.refused) == (5, [])
        assert len(world.traffic.connections) == 3
        world.app.gate.set()
        assert (await busy.answer()).status == 200
        await half.send(GET[20:])
        assert (await half.answer()).status == 200
        silent.reset()
        await until(lambda: len(world.traffic.connections) == 2)
        assert (await world.ask(GET)).status == 200
        assert world.app.turned_away == 5

    run(test, limits={"max_connections": 3})


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
