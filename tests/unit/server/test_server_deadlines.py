"""How long a request takes in all: when its time begins, and what happens when it is over."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from tests.grpc_calls import Client, Context, inputs
from tests.grpc_calls import request as grpc_request
from tests.server_app import FULL, INFER, ROW, Answer, Running, request, start
from tests.server_connection import World, post, run, until
from tests.server_shelf import Shelf

from tidemill.server.deadlines import Deadlines
from tidemill.server.protocol import Rejected
from tidemill.server.trail import Trail

MODEL = {"model": "flight-delay", "version": "7"}
LOOKED_UP = ROW | {"tailnum": "N1"}


@pytest.fixture
def stuck(bundle: Path) -> Iterator[Running]:
    """A server whose online store answers nothing, and whose requests have little time."""
    limits = {"request_seconds": 0.3, "max_in_flight": 1}
    served = start(bundle, lookup_deadline_ms=60_000, limits=limits)
    end = threading.Event()
    served.online.read = lambda *_: end.wait(60)  # type: ignore[assignment, method-assign]
    yield served
    end.set()


async def ask(served: Running, row: dict[str, Any] = FULL, path: str = INFER) -> Answer:
    return await served._ask(path, json.dumps(request(row)).encode(), "POST", 0, {})


def be_patient(served: Running) -> None:
    """Give requests time from now on: the machine may do much else."""
    served.app.guard._deadlines.seconds = 60.0


def outcomes(served: Running) -> dict[str, int]:
    return {name: count for name, count in served.served.counters.outcomes.items() if count}


def test_a_request_whose_time_is_over_is_refused_and_leaves_nothing(stuck: Running) -> None:
    async def talk() -> tuple[Answer, Answer]:
        late = await ask(stuck, LOOKED_UP)
        be_patient(stuck)
        return late, await ask(stuck)

    late, good = asyncio.run(talk())
    assert (late.status, late.body["code"]) == (504, "deadline_exceeded")
    assert late.body["error"] == "the request was not answered within 0.3 s"
    assert good.status == 200
    assert outcomes(stuck) == {"error": 1, "ok": 1}
    assert stuck.metric("tidemill_refused_total", code="deadline_exceeded") == 1
    assert stuck.served.counters.in_flight == 0
    assert stuck.log.held() == 1


def test_a_call_whose_time_is_over_is_refused_and_leaves_nothing(stuck: Running) -> None:
    late = Client(stuck).infer(inputs(LOOKED_UP))
    assert (late.status, late.code) == ("DEADLINE_EXCEEDED", "deadline_exceeded")
    assert outcomes(stuck) == {"error": 1}
    assert stuck.metric("tidemill_refused_total", code="deadline_exceeded") == 1
    assert stuck.served.counters.in_flight == 0


@pytest.mark.parametrize("path", [INFER, "/v2/models/flight-delay/versions/7/infer"])
def test_a_request_that_gets_no_place_in_its_time_is_overload(bundle: Path, path: str) -> None:
    served = start(bundle, limits={"max_in_flight": 1, "request_seconds": 0.05})

    async def talk() -> Answer:
        async with served.app.guard.slots:
            return await ask(served, path=path)

    assert asyncio.run(talk()).status == 504
    assert outcomes(served) == {"overloaded": 1}
    assert served.metric("tidemill_request_seconds_count", **MODEL) == 0
    be_patient(served)
    assert served.infer(FULL).status == 200


def test_a_call_that_gets_no_place_in_its_time_is_overload(bundle: Path) -> None:
    served = start(bundle, limits={"max_in_flight": 1, "request_seconds": 0.05})
    content = grpc_request(inputs()).SerializeToString()

    async def talk() -> Any:
        async with served.app.guard.slots:
            return await Client(served).run("ModelInfer", Context(content))

    late = asyncio.run(talk())
    assert (late.status, late.code) == ("DEADLINE_EXCEEDED", "deadline_exceeded")
    assert outcomes(served) == {"overloaded": 1}


def test_an_order_takes_as_long_as_it_takes(shelf: Shelf) -> None:
    shelf.open(limits={"request_seconds": 0.05}).fill()

    async def talk() -> Answer:
        shelf.gate.clear()
        order = asyncio.create_task(shelf.order("load", "late", "2"))
        await asyncio.sleep(0.2)
        assert not order.done()
        shelf.gate.set()
        return await order

    assert shelf.run(talk).status == 200


def test_each_has_a_time_of_its_own() -> None:
    async def talk() -> tuple[str, bool]:
        deadlines = Deadlines(60.0)
        old, young = Trail(), Trail()
        old.arrived -= 59.99

        async def wait(trail: Trail) -> None:
            with deadlines.of(trail):
                await asyncio.sleep(60)

        first, second = asyncio.create_task(wait(old)), asyncio.create_task(wait(young))
        with pytest.raises(Rejected) as refusal:
            await first
        alive = not second.done() and not young.late
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        return refusal.value.code, alive

    assert asyncio.run(talk()) == ("deadline_exceeded", True)


def test_a_time_that_was_over_before_is_refused_and_cancels_nothing() -> None:
    async def talk() -> tuple[str, bool, int]:
        deadlines, trail = Deadlines(0.05), Trail()
        trail.arrived -= 60.0
        with pytest.raises(Rejected) as refusal, deadlines.of(trail):
            pytest.fail("it was entered")
        task = asyncio.current_task()
        assert task
        await asyncio.sleep(0.01)
        assert not deadlines.running
        return refusal.value.code, trail.late, task.cancelling()

    assert asyncio.run(talk()) == ("deadline_exceeded", True, 0)


def test_the_next_is_watched_when_the_one_before_was_in_time() -> None:
    async def talk() -> str:
        deadlines = Deadlines(0.05)
        with deadlines.of(Trail()):
            pass
        with pytest.raises(Rejected) as refusal, deadlines.of(Trail()):
            await asyncio.sleep(60)
        return refusal.value.code

    assert asyncio.run(talk()) == "deadline_exceeded"


def test_the_end_of_the_process_is_no_deadline() -> None:
    """Whoever else cancels the task, at the same time too, is not answered for."""

    async def talk() -> None:
        async def wait(trail: Trail) -> None:
            with Deadlines(0.01).of(trail):
                await asyncio.sleep(60)

        trail = Trail()
        task = asyncio.create_task(wait(trail))
        await asyncio.sleep(0)
        trail.late = True
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(talk())


def test_the_wait_for_a_place_is_in_the_duration_and_shown(bundle: Path) -> None:
    served = start(bundle, slow_ms=50, limits={"max_in_flight": 1})

    async def talk() -> None:
        client = Client(served)
        content = Context(grpc_request(inputs()).SerializeToString())
        async with served.app.guard.slots:
            waiting = [
                asyncio.create_task(ask(served)),
                asyncio.create_task(client.run("ModelInfer", content)),
            ]
            await until(lambda: len(served.app.guard._deadlines.running) == len(waiting))
            await asyncio.sleep(0.1)
        await asyncio.gather(*waiting)

    asyncio.run(talk())
    assert outcomes(served) == {"ok": 2}
    for name in ("wait_seconds", "request_seconds"):
        assert served.metric(f"tidemill_{name}_count", **MODEL) == 2
        assert served.metric(f"tidemill_{name}_bucket", le="0.05", **MODEL) == 0
    assert served.metric("tidemill_slow_total", **MODEL) == 2


def test_the_time_begins_when_all_of_a_request_has_come_and_it_is_its_turn() -> None:
    async def test(world: World) -> None:
        client = await world.connect()
        sent = post(b"/wait", b"one")
        await client.send(sent[:-1])
        await until(lambda: world.traffic.pending == 1)
        before_its_end = perf_counter()
        await client.send(sent[-1:] + post(b"/echo", b"two"))
        await until(lambda: world.traffic.pending == 2)
        before_its_turn = perf_counter()
        world.app.gate.set()
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        one, two = world.app.trails
        assert one.started < before_its_end < one.arrived
        assert two.started < before_its_turn < two.arrived

    run(test)
