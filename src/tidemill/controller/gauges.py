"""What the controller counts of itself."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Gauges"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Gauges(Collector):
    """Counters of looks and decisions, and gauges that are read when they are asked for."""

    def __init__(
        self,
        registry: CollectorRegistry,
        phases: Callable[[], Tally[str]],
        stalled: Callable[[], Tally[str]],
        waiting: Callable[[], int],
        leading: Callable[[], bool],
    ) -> None:
        self._phases, self._stalled = phases, stalled
        self._waiting, self._leading = waiting, leading
        self.looks = Histogram(
            "tidemill_rollout_look_seconds",
            "Time of one look at a rollout, by how it ended.",
            ("result",),
            buckets=SECONDS,
            registry=registry,
        )
        self.decisions = Counter(
            "tidemill_rollout_decisions",
            "Decisions that were written.",
            ("action",),
            registry=registry,
        )
        self.repairs = Counter(
            "tidemill_rollout_routes_repaired",
            "Routes that others had edited or deleted, and that were taken back.",
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is true now."""
        phases = GaugeMetricFamily("tidemill_rollouts", "Rollouts by phase.", labels=["phase"])
        for phase, count in sorted(self._phases().items()):
            phases.add_metric([phase], count)
        yield phases
        stalled = GaugeMetricFamily(
            "tidemill_rollouts_stalled",
            "Rollouts that need a person, by reason.",
            labels=["reason"],
        )
        for reason, count in sorted(self._stalled().items()):
            stalled.add_metric([reason], count)
        yield stalled
        waiting, leads = self._waiting(), int(self._leading())
        yield GaugeMetricFamily(
            "tidemill_rollout_queue", "Rollouts that wait to be looked at.", waiting
        )
        yield GaugeMetricFamily("tidemill_rollout_leader", "1: this controller acts.", leads)
