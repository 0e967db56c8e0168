"""Versions that are unloaded, and a process that ends: what was accepted is answered and logged."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.server_shelf import Shelf, code_of, version_of

from tidemill.errors import Unavailable
from tidemill.server.predictions import PredictionLog


def test_what_was_unloaded_stays_so_until_it_is_loaded(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Any]:
        done = await shelf.order("unload", "late", "10")
        refused = await shelf.infer("late", "10")
        older = await shelf.infer("late")
        state = (await shelf.index())["late/10"]
        loaded = await shelf.order("load", "late")
        return [done.status, refused, older, state, loaded.status, await shelf.infer("late")]

    done, refused, older, state, loaded, newest = shelf.run(talk)
    assert (done, code_of(refused)) == (200, (503, "not_loaded"))
    assert version_of(older) == "2"
    assert state == ("UNAVAILABLE", "unloaded")
    assert (loaded, version_of(newest)) == (200, "10")


def test_a_model_can_be_unloaded_whole(shelf: Shelf) -> None:
    shelf.open().fill()

    async def talk() -> list[Any]:
        await shelf.order("unload", "late")
        return [await shelf.infer("late"), await shelf.index(ready=True)]

    refused, index = shelf.run(talk)
    assert code_of(refused) == (503, "not_loaded")
    assert set(index) == {"taxi/7"}


def test_an_unload_wins_over_a_load_under_way(shelf: Shelf) -> None:
    shelf.open(model_memory_mb=9).fill()
    shelf.gate.clear()
    shelf.loads.clear()

    async def talk() -> list[Any]:
        asked = asyncio.create_task(shelf.infer("late", "1"))
        while not shelf.loads:
            await asyncio.sleep(0.001)
        await shelf.order("unload", "late", "1")
        shelf.gate.set()
        return [await asked, await shelf.index(ready=True)]

    refused, index = shelf.run(talk)
    assert code_of(refused) == (503, "not_loaded")
    assert set(index) == {"late/10", "taxi/7"}


def test_unloading_waits_for_what_was_accepted_and_its_log(shelf: Shelf) -> None:
    shelf.open(log={"flush_seconds": 600}).fill()

    async def talk() -> list[Any]:
        answers = await asyncio.gather(*(shelf.infer("taxi", id=str(i)) for i in range(9)))
        await shelf.order("unload", "taxi")
        return [answers, len(shelf.objects.kept)]

    answers, files = shelf.run(talk)
    assert [version_of(a) for a in answers] == ["7"] * 9
    assert files == 1
    assert shelf.logged()["request_id"].to_list() == [str(i) for i in range(9)]


def test_a_process_that_ends_writes_the_log_of_what_was_just_unloaded(shelf: Shelf) -> None:
    shelf.open(log={"flush_seconds": 600}).fill()

    async def talk() -> None:
        await shelf.infer("taxi", id="last")
        shelf.models.find("taxi").counters.in_flight += 1  # type: ignore[union-attr]
        asyncio.create_task(shelf.order("unload", "taxi"))  # noqa: RUF006 - cut off by the end
        await asyncio.sleep(0)

    asyncio.run(talk())
    shelf.models.close()
    assert shelf.logged()["request_id"].to_list() == ["last"]


async def _infer_each(shelf: Shelf) -> None:
    for name, version in (("late", "1"), ("late", "2"), ("late", "10"), ("taxi", "7")):
        assert version_of(await shelf.infer(name, version)) == version


def test_all_logs_are_written_at_once_at_the_end(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.open(model_memory_mb=17, log={"flush_seconds": 600}).fill()
    together = threading.Barrier(4)
    put = shelf.objects.put

    def meet(key: str, content: bytes | Path) -> str:
        together.wait(5)
        return put(key, content)

    monkeypatch.setattr(shelf.objects, "put", meet)
    shelf.run(lambda: _infer_each(shelf))
    assert set(shelf.logged()["version"]) == {"1", "2", "7", "10"}


def test_a_store_that_is_away_holds_the_end_once_and_not_for_each_log(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = shelf.open(model_memory_mb=17, log={"flush_seconds": 600})
    models.fill()
    models._drain_seconds = 0.2
    shelf.objects.failure = Unavailable("the store is away")
    limits: list[float] = []
    close = PredictionLog.close

    def noted(log: PredictionLog, timeout: float) -> int:
        limits.append(timeout)
        return close(log, timeout)

    monkeypatch.setattr(PredictionLog, "close", noted)
    shelf.run(lambda: _infer_each(shelf))
    assert len(limits) == 4
    assert sum(limits) < 2 * 0.2
