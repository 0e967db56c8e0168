"""Counters of one server.

Requests are counted in plain integers on the event loop; prometheus-client only writes them out, as
its own counters would cost as much per request as a small model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from time import time

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tidemill.domain.scores import BOUNDS
from tidemill.server.guard import CODES

__all__ = ["Metrics"]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LABELS = ("model", "version", "revision")


class Metrics:
    """What `/metrics` shows; every series carries model, version and revision."""

    def __init__(
        self,
        labels: tuple[str, str, str],
        *,
        slow_seconds: float,
        views: tuple[str, ...],
        logged: Callable[[], tuple[int, int]],
    ) -> None:
        """Start at zero; `logged` returns how many rows the prediction log stored and lost."""
        self._labels = labels
        self._slow_seconds = slow_seconds
        self._bounds = sorted({*BUCKETS, slow_seconds})
        self._counts = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0
        self._logged = logged
        self._started = time()
        self.outcomes = Counter({"ok": 0, "error": 0, "rejected": 0})
        self.refused = Counter(dict.fromkeys(CODES, 0))
        self.slow = 0
        self.invalid = 0
        self.rows = 0
        self._scores = [0] * (len(BOUNDS) + 1)
        self._score_sum = 0.0
        self.defaults = Counter(dict.fromkeys(views, 0))
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def answered(self, outcome: str, seconds: float) -> None:
        """Count one request and its time, from the last byte read to the first one written."""
        self.outcomes[outcome] += 1
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds
        self.slow += seconds > self._slow_seconds

    def scored(self, scores: list[float]) -> None:
        """Count the rows of one request, and the request once under its mean score."""
        self.rows += len(scores)
        if all(0.0 <= score <= 1.0 for score in scores):  # NaN compares false
            mean = sum(scores) / len(scores)
            self._scores[bisect_left(BOUNDS, mean)] += 1
            self._score_sum += mean
        else:
            self.invalid += 1

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus-client calls this."""
        stored, lost = self._logged()
        yield self._counter("requests", "Requests by outcome.", self.outcomes, "outcome")
        yield self._counter(
            "refused", "Requests refused before they were read.", self.refused, "code"
        )
        yield self._histogram(
            "request_seconds",
            "Time of a request in the server.",
            self._bounds,
            self._counts,
            self._seconds,
        )
        yield self._histogram(
            "score", "Mean score of a request.", BOUNDS, self._scores, self._score_sum
        )
        yield self._counter("slow", "Requests slower than serving.slow_ms.", self.slow)
        yield self._counter("invalid", "Requests with a score not in [0, 1].", self.invalid)
        yield self._counter("rows", "Rows scored.", self.rows)
        yield self._counter(
            "defaults", "Rows with a feature that fell back to its default.", self.defaults, "view"
        )
        yield self._counter("log_rows", "Rows stored in the prediction log.", stored)
        yield self._counter("log_lost", "Rows the prediction log lost.", lost)
        start = GaugeMetricFamily(
            "tidemill_start_time_seconds", "Start of this server, epoch seconds.", labels=LABELS
        )
        start.add_metric(self._labels, self._started)
        yield start

    def _counter(
        self, name: str, text: str, value: int | Counter[str], label: str = ""
    ) -> CounterMetricFamily:
        extra = (label,) if label else ()
        family = CounterMetricFamily(f"tidemill_{name}", text, labels=(*LABELS, *extra))
        if isinstance(value, Counter):
            for key, count in value.items():
                family.add_metric((*self._labels, key), count)
        else:
            family.add_metric(self._labels, value)
        return family

    def _histogram(
        self, name: str, text: str, bounds: Sequence[float], counts: list[int], total: float
    ) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"tidemill_{name}", text, labels=LABELS)
        labels = [*map(str, bounds), "+Inf"]
        buckets = list(zip(labels, accumulate(counts), strict=True))
        family.add_metric(self._labels, buckets, total)
        return family
