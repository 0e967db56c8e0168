"""Where a request ends: what two parties could read differently, and any bytes at all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server_connection import (
    GET,
    World,
    post,
    run,
    until,
)

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


@settings(max_examples=60)
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


@settings(max_examples=150)
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
