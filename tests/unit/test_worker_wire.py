"""What workers share: calls over a socket, and numbers in a file without a name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from tidemill.server.bucket import TokenBucket
from tidemill.workers.cells import Cells, make_file
from tidemill.workers.place import Place
from tidemill.workers.wire import Gone, Wire


async def echo(call: str, body: bytes) -> bytes:
    return call.encode() + body


def between(
    use: Callable[[Wire, Wire], Awaitable[None]],
    answer: Callable[[str, bytes], Awaitable[bytes]] = echo,
) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        first, second = await Wire.over(one, echo), await Wire.over(other, answer)
        running = [asyncio.create_task(end.run()) for end in (first, second)]
        await use(first, second)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def test_both_ends_ask_at_the_same_time() -> None:
    async def use(first: Wire, second: Wire) -> None:
        asked = [end.ask("say", b"%d" % n) for n in range(50) for end in (first, second)]
        assert await asyncio.gather(*asked) == [b"say%d" % n for n in range(50) for _ in "ab"]
        large = bytes(3_000_000)
        assert await first.ask("x", large) == b"x" + large

    between(use)


def test_an_answer_may_wait_for_a_question_the_other_way() -> None:
    async def main() -> None:
        one, other = socket.socketpair()

        async def ask_back(_: str, __: bytes) -> bytes:
            return await second.ask("back")

        first = await Wire.over(one, echo)
        second = await Wire.over(other, ask_back)
        running = [asyncio.create_task(end.run()) for end in (first, second)]
        assert await first.ask("there") == b"back"
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def test_an_end_that_fails_says_so_and_one_that_leaves_ends_every_question() -> None:
    async def fail(call: str, _: bytes) -> bytes:
        if call == "wait":
            await asyncio.sleep(60)
        raise RuntimeError("inside")

    async def use(first: Wire, second: Wire) -> None:
        with pytest.raises(Gone, match="failed"):
            await first.ask("fail")
        waiting = asyncio.create_task(first.ask("wait"))
        await asyncio.sleep(0)
        second._writer.close()
        with pytest.raises(Gone, match="gone"):
            await waiting
        with pytest.raises(Gone, match="nobody"):
            await first.ask("more")

    between(use, fail)


def test_a_place_goes_over_a_command_line() -> None:
    for place in (Place(2, 7, 8, (9, 10, 11)), Place(0, 3, 4, (5,), 8101)):
        assert Place.parse(str(place)) == place


TAKER = """
import sys
from time import monotonic
from tidemill.server.bucket import TokenBucket
from tidemill.workers.cells import Cells
bucket = TokenBucket(1e-6, 1000, Cells(int(sys.argv[1])).cell("shop"))
print(sum(not bucket.take(monotonic()) for _ in range(800)))
"""


def test_processes_that_share_a_rate_take_no_more_than_one_would() -> None:
    file = make_file()
    start = [sys.executable, "-c", TAKER, str(file)]
    takers = [
        subprocess.Popen(start, pass_fds=[file], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    taken = [int(taker.communicate(timeout=60)[0]) for taker in takers]
    assert sum(taken) == 1000
    cells = Cells(file)
    assert TokenBucket(1e-6, 1000, cells.cell("shop")).take(0.0)
    assert not TokenBucket(1e-6, 1000, cells.cell("another")).take(0.0)
    os.close(file)


def test_each_name_has_a_number_of_its_own_that_starts_at_zero() -> None:
    cells = Cells(make_file())
    found = [cells.cell(f"name {n}") for n in range(500)]
    assert {cell.value for cell in found} == {0.0}
    for number, cell in enumerate(found):
        with cell:
            cell.value = float(number)
    assert [cells.cell(f"name {n}").value for n in range(500)] == list(range(500))
