"""The connection over real sockets: order, answers, drain."""

from __future__ import annotations

import pytest
from tests.server_connection import (
    GET,
    World,
    post,
    run,
    until,
)

from tidemill.server.connection import PIPELINED


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


def test_what_the_end_of_the_drain_cuts_off_is_told() -> None:
    async def test(world: World) -> None:
        waiting, half, head, idle = [await world.connect() for _ in range(4)]
        await waiting.send(GET.replace(b"/echo", b"/wait"))
        await half.send(post(b"/half", b"abc")[:-1])
        await head.send(GET[:20])
        await idle.send(GET)
        await idle.answer()
        for connection in tuple(world.traffic.connections):
            connection.abort()
        for client in (waiting, half, head, idle):
            assert await client.ended()
        assert sorted(world.app.cut_off) == ["", "/half", "/wait"]  # nobody asked on the idle one

    run(test)
