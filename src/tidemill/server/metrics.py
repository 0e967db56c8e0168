"""Counters of a server, by model.

Requests are counted in plain integers on the event loop; prometheus-client only writes them out, as
its own counters would cost as much per request as a small model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

__all__ = ["Counters", "Metrics"]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LABELS = ("model", "version", "revision")


class Counters:
    """What is counted of one model version; every series carries model, version and revision."""

    def __init__(
        self,
        labels: tuple[str, str, str],
        *,
        slow_seconds: float,
        views: tuple[str, ...],
        logged: Callable[[], tuple[int, int]],
    ) -> None:
        """Start at zero; `logged` returns how many rows the prediction log stored and lost."""
        self.labels = labels
        self.started = time()
        self._slow_seconds = slow_seconds
        self.bounds = sorted({*BUCKETS, slow_seconds})
        self.times = [0] * (len(self.bounds) + 1)
        self.seconds = 0.0
        self.logged = logged
        self.outcomes = Counter({"ok": 0, "error": 0, "rejected": 0, "cancelled": 0})
        self.slow = 0
        self.invalid = 0
        self.rows = 0
        self.scores = [0] * (len(BOUNDS) + 1)
        self.score_sum = 0.0
        self.defaults = Counter(dict.fromkeys(views, 0))

    def answered(self, outcome: str, seconds: float) -> None:
        """Count one request and its time, from the last byte read to the first one written."""
        self.outcomes[outcome] += 1
        self.times[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds
        self.slow += seconds > self._slow_seconds

    def scored(self, scores: list[float]) -> None:
        """Count the rows of one request, and the request once under its mean score."""
        self.rows += len(scores)
        if all(0.0 <= score <= 1.0 for score in scores):  # NaN compares false
            mean = sum(scores) / len(scores)
            self.scores[bisect_left(BOUNDS, mean)] += 1
            self.score_sum += mean
        else:
            self.invalid += 1


class Metrics:
    """What `/metrics` shows: the counters of every model that is loaded, and the server's own."""

    def __init__(self, counters: Callable[[], Iterable[Counters]]) -> None:
        self._counters = counters
        self.refused = Counter(dict.fromkeys(CODES, 0))
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus-client calls this."""
        found = list(self._counters())
        refused = CounterMetricFamily(
            "tidemill_refused", "Requests refused before they were read.", labels=["code"]
        )
        for code, count in self.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield _by("requests", "Requests by outcome.", "outcome", [(c, c.outcomes) for c in found])
        yield _histogram(
            "request_seconds",
            "Time of a request in the server.",
            [(c, c.bounds, c.times, c.seconds) for c in found],
        )
        yield _histogram(
            "score",
            "Mean score of a request.",
            [(c, BOUNDS, c.scores, c.score_sum) for c in found],
        )
        yield _count("slow", "Requests slower than serving.slow_ms.", [(c, c.slow) for c in found])
        yield _count(
            "invalid", "Requests with a score not in [0, 1].", [(c, c.invalid) for c in found]
        )
        yield _count("rows", "Rows scored.", [(c, c.rows) for c in found])
        yield _by(
            "defaults",
            "Rows with a feature that fell back to its default.",
            "view",
            [(c, c.defaults) for c in found],
        )
        logged = [(c, *c.logged()) for c in found]
        yield _count(
            "log_rows", "Rows stored in the prediction log.", [(c, n) for c, n, _ in logged]
        )
        yield _count("log_lost", "Rows the prediction log lost.", [(c, n) for c, _, n in logged])
        start = GaugeMetricFamily(
            "tidemill_start_time_seconds",
            "When this model was loaded, epoch seconds.",
            labels=LABELS,
        )
        for counters in found:
            start.add_metric(counters.labels, counters.started)
        yield start


def _count(name: str, text: str, values: Iterable[tuple[Counters, int]]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"tidemill_{name}", text, labels=LABELS)
    for counters, value in values:
        family.add_metric(counters.labels, value)
    return family


def _by(
    name: str, text: str, label: str, values: Iterable[tuple[Counters, Mapping[str, int]]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"tidemill_{name}", text, labels=(*LABELS, label))
    for counters, found in values:
        for key, count in found.items():
            family.add_metric((*counters.labels, key), count)
    return family


def _histogram(
    name: str, text: str, values: Iterable[tuple[Counters, Sequence[float], Sequence[int], float]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"tidemill_{name}", text, labels=LABELS)
    for counters, bounds, counts, total in values:
        labels = [*map(str, bounds), "+Inf"]
        buckets = list(zip(labels, accumulate(counts), strict=True))
        family.add_metric(counters.labels, buckets, total)
    return family
