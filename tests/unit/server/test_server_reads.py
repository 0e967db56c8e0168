"""Look-ups that wait at the same time are one read, and each gets its own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bundle import FeatureField, FeatureView
from tidemill.errors import Unavailable
from tidemill.ports.features import OnlineBatch
from tidemill.server import reads
from tidemill.server.reads import Reads

NOW = datetime(2013, 4, 1, tzinfo=UTC)
POISON = -1


def view(name: str) -> FeatureView:
    return FeatureView(name, ("k",), (FeatureField(name, "FP32"),), 0)


A, B = (view("a"),), (view("b"),)


@dataclass
class Store:
    """Every key's value is the key; odd ones are stale. Counts reads, can be down or held."""

    sizes: list[int] = field(default_factory=list)
    down: bool = False
    quick: int = 0
    """Reads that are not held."""
    free: Event = field(default_factory=Event)

    def read(
        self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], _: datetime
    ) -> OnlineBatch:
        self.sizes.append(len(keys["k"]))
        assert len(self.sizes) <= self.quick or self.free.wait(30)
        if self.down:
            raise Unavailable("the store does not answer")
        if POISON in keys["k"]:
            raise ValueError("no such key can be")
        stale = {v.name: [key % 2 == 1 for key in keys["k"]] for v in views}
        return OnlineBatch({v.name: list(keys["k"]) for v in views}, NOW, stale)


async def ask(pool: Reads, keys: Sequence[int], views: tuple[FeatureView, ...] = A) -> OnlineBatch:
    return await pool.read(views, {"k": keys}, len(keys), NOW)


def talk(store: Store, *asked: tuple[Sequence[int], tuple[FeatureView, ...]]) -> list[Any]:
    """Ask all in one turn of the event loop; return answers and failures."""
    store.free.set()

    async def all_of_them() -> list[Any]:
        pool = Reads(store.read)
        return await asyncio.gather(*(ask(pool, *one) for one in asked), return_exceptions=True)

    return asyncio.run(all_of_them())


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=9))
def test_each_gets_its_own_rows_of_one_read(asked: list[list[int]]) -> None:
    store = Store()
    answers = talk(store, *((keys, A) for keys in asked))
    assert store.sizes == [sum(map(len, asked))]
    assert [one.columns["a"] for one in answers] == asked
    stale = [[key % 2 == 1 for key in keys] for keys in asked]
    assert [one.stale.get("a", [False] * len(one.columns["a"])) for one in answers] == stale
    assert {one.as_of for one in answers} == {NOW}


def test_other_views_and_too_many_rows_are_reads_of_their_own() -> None:
    store = Store()
    large = list(range(reads.MAX_ROWS))
    answers = talk(store, ([1], A), ([2], B), ([3], A), (large, A))
    assert sorted(store.sizes) == [1, 2, reads.MAX_ROWS]
    assert [list(one.columns) for one in answers] == [["a"], ["b"], ["a"], ["a"]]
    assert answers[3].columns["a"] == large


def test_a_look_up_that_spoils_a_read_fails_alone() -> None:
    store = Store()
    answers = talk(store, ([1], A), ([POISON], A), ([3], A))
    assert store.sizes == [3, 1, 1, 1]
    assert [answers[0].columns, answers[2].columns] == [{"a": [1]}, {"a": [3]}]
    assert isinstance(answers[1], ValueError)


def test_what_is_read_again_keeps_to_the_threads_and_to_who_still_waits() -> None:
    store = Store(quick=1)

    async def play() -> None:
        pool = Reads(store.read)
        asked = [asyncio.create_task(ask(pool, [n])) for n in (POISON, *range(20))]
        while len(store.sizes) < 1 + reads.THREADS:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(store.sizes) == 1 + reads.THREADS
        for one in asked[10:]:
            one.cancel()
        store.free.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(done[0], ValueError)
        assert [one.columns["a"] for one in done[1:10]] == [[n] for n in range(9)]
        assert store.sizes == [21, *[1] * 10], "nobody is read for who has gone"

    asyncio.run(play())


def test_a_store_that_is_down_is_asked_once() -> None:
    store = Store(down=True)
    answers = talk(store, ([1], A), ([2], A))
    assert store.sizes == [2]
    assert [type(one) for one in answers] == [Unavailable, Unavailable]


def test_while_all_threads_read_look_ups_wait_and_join() -> None:
    store = Store()

    async def play() -> list[OnlineBatch]:
        pool, asked = Reads(store.read), []
        for number in range(reads.THREADS + 3):
            asked.append(asyncio.create_task(ask(pool, [number])))
            while len(store.sizes) < min(number + 1, reads.THREADS):
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert store.sizes == [1] * reads.THREADS
        asked.pop().cancel()
        store.free.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(play())
    assert [one.columns["a"] for one in answers] == [[n] for n in range(reads.THREADS + 2)]
    assert store.sizes == [1] * reads.THREADS + [2], "who has gone is not read for"


def test_reads_that_nobody_waits_for_end_the_reading() -> None:
    store = Store()

    async def play() -> None:
        pool = Reads(store.read)
        for _ in range(reads.THREADS):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(pool, [1]), 0.02)
        with pytest.raises(Unavailable, match="wait for reads that do not end"):
            await ask(pool, [1])
        store.free.set()
        while pool._running:
            await asyncio.sleep(0)
        assert (await ask(pool, [2])).columns == {"a": [2]}

    asyncio.run(play())
