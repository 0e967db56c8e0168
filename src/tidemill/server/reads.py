"""Reads of the online store: the look-ups that wait at the same time are one read.

A request that is alone is read at once, on a thread. Under load look-ups arrive together, and a
read costs little more for ten rows than for one: it is the hand-over to a thread and back, and the
statement, that cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

from msgspec import Struct

from tidemill.bundle import FeatureView
from tidemill.errors import Mismatch, Unavailable
from tidemill.ports.features import OnlineBatch

__all__ = ["THREADS", "Reads"]

THREADS = 4
"""Reads at once; a read that hangs holds one, the others go on."""
MAX_ROWS = 256
"""Rows that are read together, or one larger look-up."""


class _Asked(Struct, gc=False, eq=False):
    views: tuple[FeatureView, ...]
    keys: Mapping[str, Sequence[Any]]
    rows: int
    moment: datetime
    answer: asyncio.Future[OnlineBatch]
    alone: bool = False
    """It was part of a read that failed: it is read again without the others."""


class Reads:
    """Reads for the look-ups of one model; to be called in the event loop's thread."""

    def __init__(self, read: Callable[..., OnlineBatch]) -> None:
        """`read` is called on a thread, as `OnlineReader.read` is."""
        self._read = read
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup")
        self._waiting: list[_Asked] = []
        self._running: dict[Future[OnlineBatch], list[_Asked]] = {}

    async def read(
        self,
        views: tuple[FeatureView, ...],
        keys: Mapping[str, Sequence[Any]],
        rows: int,
        moment: datetime,
    ) -> OnlineBatch:
        """Return what the store holds for `rows` rows of keys; raises what the reader raises.

        The caller sets the deadline: a read that ends too late holds its thread until then. Raises
        Unavailable when all threads are held by reads that nobody waits for any more.
        """
        running = tuple(self._running.values())  # a copy: threads take away what ends
        if len(running) >= THREADS and not any(map(_awaited, running)):
            raise Unavailable(f"all {THREADS} threads wait for reads that do not end")
        loop = asyncio.get_running_loop()
        asked = _Asked(views, keys, rows, moment, loop.create_future())
        self._waiting.append(asked)
        loop.call_soon(self._start)  # behind what arrived in the same turn of the loop
        return await asked.answer

    def _start(self) -> None:
        """Read for all who wait, as far as threads are free."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        while self._waiting and len(self._running) < THREADS:
            together = self._take()
            keys = {
                name: list(chain.from_iterable(one.keys[name] for one in together))
                for name in together[0].keys
            }
            moment = max(one.moment for one in together)
            read = self._threads.submit(self._read, together[0].views, keys, moment)
            self._running[read] = together
            read.add_done_callback(self._running.pop)
            asyncio.wrap_future(read).add_done_callback(partial(self._deliver, together))

    def _take(self) -> list[_Asked]:
        """Take the first who waits, and who can be read with it."""
        first, *others = self._waiting
        together, left, rows = [first], [], first.rows
        for one in others:
            fits = one.views == first.views and rows + one.rows <= MAX_ROWS
            if fits and not (first.alone or one.alone):
                together.append(one)
                rows += one.rows
            else:
                left.append(one)
        self._waiting = left
        return together

    def _deliver(self, together: list[_Asked], read: asyncio.Future[OnlineBatch]) -> None:
        """Give each its rows; what one look-up may have spoilt is read again for each alone."""
        error, end = read.exception(), 0
        again: list[_Asked] = []
        for one in together:
            begin, end = end, end + one.rows
            if one.answer.done():  # its deadline has passed, or its client is gone
                continue
            if error is None:
                one.answer.set_result(read.result().part(begin, end))
            elif len(together) == 1 or isinstance(error, Unavailable | Mismatch):
                one.answer.set_exception(error)
            else:
                one.alone = True
                again.append(one)
        self._waiting = again + self._waiting
        self._start()


def _awaited(together: list[_Asked]) -> bool:
    return any(not one.answer.done() for one in together)
