"""Many simulated canaries at once, judged at every look by the functions that decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.evalues import Floats, log_guard
from tidemill.domain.evidence import (
    TOTAL,
    Arrays,
    Metric,
    Segment,
    Tolerance,
    extend,
    log_harm,
    log_pass,
)

__all__ = ["Canaries"]

CHUNK = 250
"""Canaries judged together; bounds the memory to some ten megabytes."""


class Canaries:
    """Canaries under one schedule of weights, all with the same number of requests per look.

    As the number of requests alone decides where `extend` cuts, they share their segments, and one
    call judges all of them.
    """

    def __init__(
        self,
        weights: Sequence[int],
        requests: Sequence[int],
        losses: Floats,
        levels: Sequence[float] = (1.0,),
    ) -> None:
        """Take per look the weight (1/10000), the requests, and `losses[N, looks, L, 2]`."""
        self._weights = weights
        self._requests = requests
        self.losses = losses
        self._levels = np.array(levels, dtype=np.float64)
        self._harm: dict[tuple[float, bool], Floats] = {}

    def log_harm(self, metric: Metric) -> Floats:
        """Return the log e-value of the harm test after every look, `[N, looks]`.

        It is worked out once for metrics that differ in their level alone.
        """
        test = metric.harm_ratio, metric.wanted
        if test not in self._harm:
            self._harm[test] = self._every_look(lambda *seen: log_harm(metric, *seen))
        return self._harm[test]

    def log_pass(self, metric: Metric) -> Floats:
        """Return the log e-value of the pass test after every look, `[N, looks]`."""
        return self._every_look(lambda arrays, _: log_pass(metric, arrays))

    def rolled_back(self, metric: Metric, tolerance: Tolerance, trials: Floats) -> NDArray[np.bool]:
        """Return whether each look would roll back, `[N, looks]`; `trials` are the canary's.

        What only holds a rollback off (stable sick, labels or split incomplete) is left out.
        """
        events = self.losses[..., 1]
        hit = self.log_harm(metric) >= metric.harm_at
        if metric.max_rate is not None:
            bad = (events @ self._levels).cumsum(axis=1)
            guard = log_guard(trials.cumsum(axis=1), bad, metric.max_rate)
            hit |= guard >= metric.guard_at
        if metric.wanted:
            events = self.losses[..., 0]
        enough = events.sum(axis=2).cumsum(axis=1) >= tolerance.min_bad_events
        return np.asarray(hit & enough)

    def _every_look(self, judge: Callable[[Arrays, NDArray[np.int64]], Floats]) -> Floats:
        found = np.empty(self.losses.shape[:2])
        for look, segments in enumerate(self._segments()):
            ends = np.cumsum([s.requests[0] for s in segments])
            starts = np.concatenate([[0], ends[:-1]])
            weights = np.array([s.weight / TOTAL for s in segments])
            ordinals = np.array([s.ordinal for s in segments])
            for first in range(0, len(found), CHUNK):
                seen = self.losses[first : first + CHUNK, : look + 1]
                arrays = weights, self._levels, np.add.reduceat(seen, starts, axis=1)
                found[first : first + CHUNK, look] = judge(arrays, ordinals)
        return found

    def _segments(self) -> Iterator[tuple[Segment, ...]]:
        """Yield the segments after every look; their `requests` count the looks in them."""
        segments: tuple[Segment, ...] = ()
        epochs = (e for e, (_, same) in enumerate(groupby(self._weights)) for _ in same)
        for epoch, weight, requests in zip(epochs, self._weights, self._requests, strict=True):
            piece = Segment(0, epoch, weight, (1, 0), (requests, 0), ())
            segments = extend(segments, piece)
            yield segments
