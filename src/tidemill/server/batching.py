"""Batches: the requests that arrived in one turn of the event loop, scored in one call.

A flush is scheduled behind what the loop has ready, so a request that is alone is scored at once.
Under load nothing has to wait for company either: while a batch is scored, the next one's requests
arrive in their sockets, and the loop delivers them together. Rows must not depend on each other,
which holds for every model of this format: one score a row.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tidemill.server.metrics import Counters
from tidemill.server.model import Model

__all__ = ["Batcher"]


class _Waiting(Struct, gc=False):
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_]
    rows: int
    since: float
    scores: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Scores requests of one model together; belongs to the event loop's thread."""

    def __init__(self, model: Model, max_rows: int, counters: Counters) -> None:
        """Allow `max_rows` rows a batch, or one larger request."""
        self._model = model
        self._max_rows = max_rows
        self._counters = counters
        self._waiting: list[_Waiting] = []
        self._rows = 0

    async def predict(
        self, numbers: NDArray[np.float32], texts: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """Return one score per row, as `Model.predict` does; raises what it raises."""
        loop = asyncio.get_running_loop()
        rows = numbers.shape[1]
        one = _Waiting(numbers, texts, rows, perf_counter(), loop.create_future())
        if self._waiting and self._rows + rows > self._max_rows:
            self._flush()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(one)
        self._rows += rows
        return await one.scores

    def _flush(self) -> None:
        batch, self._waiting, self._rows = self._waiting, [], 0
        if not batch:  # it became too large and was scored before its turn
            return
        now = perf_counter()
        for one in batch:
            self._counters.queued.observe(now - one.since)
        self._counters.batch_rows.observe(sum(one.rows for one in batch))
        if len(batch) == 1 or not self._score_together(batch):
            for one in batch:
                self._score(one)

    def _score_together(self, batch: list[_Waiting]) -> bool:
        """Score a batch; return False when it fails, as one request of it may spoil the others."""
        try:
            scores = self._model.predict(
                np.concatenate([one.numbers for one in batch], axis=1),
                np.concatenate([one.texts for one in batch], axis=1),
            )
        except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions share no other base
            return False
        end = 0
        for one in batch:
            begin, end = end, end + one.rows
            _settle(one, scores[begin:end])
        return True

    def _score(self, one: _Waiting) -> None:
        try:
            _settle(one, self._model.predict(one.numbers, one.texts))
        except Exception as error:  # noqa: BLE001 - raised where the request is answered
            if not one.scores.done():
                one.scores.set_exception(error)


def _settle(one: _Waiting, scores: NDArray[Any]) -> None:
    if not one.scores.done():  # its client may be gone
        one.scores.set_result(scores)
