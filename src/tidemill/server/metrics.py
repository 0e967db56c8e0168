"""Counters of a server, by model.

Requests are counted in plain integers on the event loop; prometheus-client only writes them out, as
its own counters would cost as much per request as a small model.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from time import time
from typing import Any, Protocol

import onnxruntime
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tidemill import __version__
from tidemill.domain.scores import BOUNDS
from tidemill.server.crew import Crew
from tidemill.server.guard import CODES
from tidemill.server.observer import Observer
from tidemill.workers.lines import standard_error
from tidemill.workers.totals import Family, Sample

__all__ = ["Counters", "Histogram", "Metrics"]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LABELS = ("model", "version", "revision")
OUTCOMES = ("ok", "error", "rejected", "overloaded", "cancelled")
QUEUE_BUCKETS = (0.0001, 0.00025, *BUCKETS)
ROW_BUCKETS = tuple(float(2**power) for power in range(13))
STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
BUILD = {
    "version": __version__,
    "python": platform.python_version(),
    "onnxruntime": onnxruntime.__version__,
}


class Histogram:
    """Counts of values by bounds, each with the values up to and including its bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counters:
    """What is counted of one model version; every series carries model, version and revision."""

    def __init__(
        self,
        labels: tuple[str, str, str],
        *,
        slow_seconds: float,
        views: tuple[str, ...],
        logged: Callable[[], tuple[int, int]],
        held: Callable[[], int],
        trained: float | None = None,
    ) -> None:
        """Start at zero.

        `logged` returns how many rows the prediction log stored and lost, `held` how many wait;
        `trained` is the moment that the model was trained for, epoch seconds.
        """
        self.labels = labels
        self.started = time()
        self.trained = trained
        self.in_flight = 0
        self._slow_seconds = slow_seconds
        self.times = Histogram(sorted({*BUCKETS, slow_seconds}))
        self.logged = logged
        self.held = held
        self.outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
        self.shadows: Counter[str] = Counter()
        """Mirrored requests by outcome; they count nowhere else."""
        self.slow = 0
        self.invalid = 0
        self.rows = 0
        self.scores = Histogram(BOUNDS)
        self.defaults = Counter(dict.fromkeys(views, 0))
        self.stale = Counter(dict.fromkeys(views, 0))
        self.aged = 0
        self.cache_hits = 0
        self.fallbacks = Counter({"previous": 0, "prior": 0})
        self.waited = Histogram(QUEUE_BUCKETS)
        self.batch_rows = Histogram(ROW_BUCKETS)
        self.queued = Histogram(QUEUE_BUCKETS)
        self.lookups = Histogram(STORE_BUCKETS)
        self.store_open = False

    def answered(self, outcome: str, seconds: float) -> None:
        """Count one request and its time, from its arrival to its answer."""
        self.outcomes[outcome] += 1
        self.times.observe(seconds)
        self.slow += seconds > self._slow_seconds

    def turned_away(self) -> None:
        """Count a request whose turn did not come, as too many wait."""
        self.outcomes["overloaded"] += 1

    def scored(self, scores: list[float]) -> None:
        """Count the rows of one request, and the request once under its mean score."""
        self.rows += len(scores)
        total = sum(scores)
        # `min` and `max` may pass NaN over, a sum does not; NaN is not equal to itself.
        if total == total and min(scores) >= 0.0 and max(scores) <= 1.0:
            self.scores.observe(total / len(scores))
        else:
            self.invalid += 1


class Counted(Protocol):
    """A loaded version."""

    @property
    def counters(self) -> Counters:
        """What is counted of it."""
        ...


class Models(Protocol):
    """The versions that are loaded, and what is counted of those that are not."""

    stood_in: Counter[str]
    """Requests by model that an older version answered."""
    rows_lost: Counter[str]
    """Rows by model that versions lost which are unloaded now, and processes that are gone."""

    def __iter__(self) -> Iterator[Counted]:
        """Iterate over what is loaded."""
        ...


class Metrics:
    """What `/metrics` shows: the counters of every model that is loaded, and the server's own."""

    def __init__(
        self, models: Models, observer: Observer | None = None, crew: Crew | None = None
    ) -> None:
        """With a `crew` the counters of all its workers are shown as one."""
        self._models = models
        self._observer = observer or Observer()
        self._crew = crew
        self.refused = Counter(dict.fromkeys(CODES, 0))
        self.turned_away = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def render(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        if self._crew is None:
            return generate_latest(self._registry)
        return generate_latest(_Shown(await self._crew.totals()))

    def families(self) -> list[Family]:
        """Return what this process counted."""
        return [
            Family(
                metric.name,
                metric.type,
                metric.documentation,
                [Sample(sample.name, sample.labels, sample.value) for sample in metric.samples],
            )
            for metric in self._registry.collect()
        ]

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus-client calls this."""
        refused = CounterMetricFamily(
            "tidemill_refused", "Requests refused before they were read.", labels=["code"]
        )
        for code, count in self.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield CounterMetricFamily(
            "tidemill_connections_refused",
            "Connections closed at once, above serving.limits.max_connections.",
            value=self.turned_away,
        )
        yield from self._server()
        found = [served.counters for served in self._models]
        for write, name, text, read in OF_A_MODEL:
            yield write(name, text, [(counters, read(counters)) for counters in found])

    def _server(self) -> Iterator[Metric]:
        """Yield what belongs to no model."""
        build = GaugeMetricFamily("tidemill_build_info", "What runs.", labels=list(BUILD))
        build.add_metric(list(BUILD.values()), 1)
        yield build
        if self._observer.traces is not None:
            spans = CounterMetricFamily(
                "tidemill_trace_spans", "Spans the collector took or not.", labels=["outcome"]
            )
            exported, lost = self._observer.traces.counts()
            spans.add_metric(["exported"], exported)
            spans.add_metric(["lost"], lost)
            yield spans
        yield _by_model(
            "stood_in",
            "Requests that an older version answered as the one asked for cannot be loaded.",
            self._models.stood_in,
        )
        yield _by_model(
            "log_lost_unloaded",
            "Rows of the prediction log lost by what is gone: versions unloaded, processes.",
            self._models.rows_lost,
        )
        yield CounterMetricFamily(
            "tidemill_lines_lost",
            "Lines of the access log and events that standard error did not take.",
            value=standard_error.lost,
        )


class _Shown(CollectorRegistry):
    """What `generate_latest` asks for families that are there already."""

    def __init__(self, families: Iterable[Family]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _by_model(name: str, text: str, found: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"tidemill_{name}", text, labels=["model"])
    for model, count in found.items():
        family.add_metric([model], count)
    return family


Values = Iterable[tuple[Counters, Any]]
"""A value of each loaded version, as the function that writes them takes it."""


def _count(name: str, text: str, values: Values) -> Metric:
    """Write counts, `int`."""
    family = CounterMetricFamily(f"tidemill_{name}", text, labels=LABELS)
    for counters, value in values:
        family.add_metric(counters.labels, value)
    return family


def _gauge(name: str, text: str, values: Values) -> Metric:
    """Write what goes up and down, `float`; None is not known and left out."""
    family = GaugeMetricFamily(f"tidemill_{name}", text, labels=LABELS)
    for counters, value in values:
        if value is not None:
            family.add_metric(counters.labels, value)
    return family


def _by(label: str, name: str, text: str, values: Values) -> Metric:
    """Write counts by one more label, `Mapping[str, int]`."""
    family = CounterMetricFamily(f"tidemill_{name}", text, labels=(*LABELS, label))
    for counters, found in values:
        for key, count in found.items():
            family.add_metric((*counters.labels, key), count)
    return family


def _histogram(name: str, text: str, values: Values) -> Metric:
    """Write `Histogram`s."""
    family = HistogramMetricFamily(f"tidemill_{name}", text, labels=LABELS)
    for counters, found in values:
        labels = [*map(str, found.bounds), "+Inf"]
        buckets = list(zip(labels, accumulate(found.counts), strict=True))
        family.add_metric(counters.labels, buckets, found.total)
    return family


_outcomes, _views = partial(_by, "outcome"), partial(_by, "view")

OF_A_MODEL: tuple[
    tuple[Callable[[str, str, Values], Metric], str, str, Callable[[Counters], object]], ...
] = (
    (_outcomes, "requests", "Requests by outcome.", lambda c: c.outcomes),
    (_outcomes, "shadow_requests", "Mirrored requests by outcome.", lambda c: c.shadows),
    (_histogram, "request_seconds", "Time of a request in the server.", lambda c: c.times),
    (_histogram, "score", "Mean score of a request.", lambda c: c.scores),
    (_count, "slow", "Requests slower than serving.slow_ms.", lambda c: c.slow),
    (_count, "invalid", "Requests with a score not in [0, 1].", lambda c: c.invalid),
    (_count, "rows", "Rows scored.", lambda c: c.rows),
    (
        partial(_by, "to"),
        "fallback",
        "Requests that this version failed, by what answered them.",
        lambda c: c.fallbacks,
    ),
    (
        _views,
        "defaults",
        "Rows with a feature that fell back to its default.",
        lambda c: c.defaults,
    ),
    (
        _views,
        "stale",
        "Rows whose stored feature was older than its view's ttl.",
        lambda c: c.stale,
    ),
    (
        _count,
        "store_aged",
        "Requests answered from an online store above serving.max_store_age_seconds.",
        lambda c: c.aged,
    ),
    (
        _count,
        "cache_hits",
        "Requests whose score was known from an equal row.",
        lambda c: c.cache_hits,
    ),
    (
        _histogram,
        "batch_rows",
        "Rows of a batch, where requests are batched.",
        lambda c: c.batch_rows,
    ),
    (
        _histogram,
        "wait_seconds",
        "Time from a request's arrival until its work began: for a place, for its version's load.",
        lambda c: c.waited,
    ),
    (
        _histogram,
        "queue_seconds",
        "Time that a request waited for its batch, where requests are batched.",
        lambda c: c.queued,
    ),
    (
        _histogram,
        "lookup_seconds",
        "Time of a read of the online store, failed ones too.",
        lambda c: c.lookups,
    ),
    (
        _gauge,
        "store_open",
        "1 while the online store is left alone because it failed.",
        lambda c: float(c.store_open),
    ),
    (_count, "log_rows", "Rows stored in the prediction log.", lambda c: c.logged()[0]),
    (_count, "log_lost", "Rows the prediction log lost.", lambda c: c.logged()[1]),
    (
        _gauge,
        "log_held_rows",
        "Rows that the prediction log has still to store.",
        lambda c: c.held(),
    ),
    (
        _gauge,
        "start_time_seconds",
        "When this model was loaded, epoch seconds.",
        lambda c: c.started,
    ),
    (
        _gauge,
        "model_trained_timestamp_seconds",
        "The moment as of which this model was trained, epoch seconds: its age.",
        lambda c: c.trained,
    ),
    (_gauge, "requests_in_flight", "Requests that are being answered.", lambda c: c.in_flight),
)
"""What is shown of each loaded version: what writes it, name, text, and where it is read."""
