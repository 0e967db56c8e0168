"""Scores of rows that were asked before.

A score depends on what the model reads and on nothing else, so it is kept by exactly that: the
inputs after lookup. It can never be stale. Each model version has a cache of its own.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from tidemill.server.metrics import Counters
from tidemill.server.validation import Batch

__all__ = ["Cache"]

Key = tuple[bytes | str, ...]


class Cache:
    """Keeps the scores of the most recently used rows.

    Requests of one row alone are kept: larger ones hardly repeat, and so memory is bounded.
    """

    def __init__(self, entries: int, counters: Counters) -> None:
        self._counters = counters
        self._entries = entries
        self._kept: OrderedDict[Key, NDArray[np.float32]] = OrderedDict()

    def get(self, batch: Batch) -> NDArray[np.float32] | None:
        """Return the scores, `[1]`, of a row that is kept."""
        key = _key(batch)
        scores = self._kept.get(key)
        if scores is not None:
            self._kept.move_to_end(key)
            self._counters.cache_hits += 1
        return scores

    def put(self, batch: Batch, scores: NDArray[np.float32]) -> None:
        """Keep the scores of one row."""
        if batch.rows > 1:
            return
        self._kept[_key(batch)] = scores.copy()  # a part of a batch would keep all of it
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)


def _key(batch: Batch) -> Key:
    return (batch.numbers.tobytes(), *batch.texts.ravel())
