"""What the monitor and the governor left behind, as metrics.

Monitors are jobs that come and go, so whoever runs all the time tells of them. Everything is read
anew for each scrape. When that fails, `tidemill_monitor_store_up` is 0 and all else is absent: what
was true once is never told as what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import get_args

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tidemill.domain.governor import RequestState
from tidemill.domain.performance import Gaps
from tidemill.domain.verdicts import TIERS, Status, WindowVerdict
from tidemill.errors import TidemillError
from tidemill.ports.monitoring import Standing, Standings

__all__ = ["StandingGauges"]

PATIENCE_SECONDS = 4.0
"""How long a scrape waits for its turn, and again for the store; Prometheus gives up after ten."""
log = structlog.get_logger(__name__)
Gauges = list[GaugeMetricFamily]


class StandingGauges(Collector):
    """Reads what stands when it is asked for, and never lets a slow store hold up a scrape."""

    def __init__(self, source: Standings, patience: float = PATIENCE_SECONDS) -> None:
        self._source, self._patience = source, patience
        self._reading = Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what stands now, or only that it could not be read."""
        gauges = self._read()
        yield GaugeMetricFamily(
            "tidemill_monitor_store_up",
            "1: verdicts, incidents and requests were read for this scrape; 0: they are unknown.",
            int(gauges is not None),
        )
        yield from gauges or ()

    def _read(self) -> Gauges | None:
        """Look once, in a thread that is left behind when it hangs; one at a time."""
        if not self._reading.acquire(timeout=self._patience):
            log.warning("what stands is unknown", problem="an earlier look at the store hangs")
            return None
        answer: SimpleQueue[Gauges | None] = SimpleQueue()
        Thread(target=self._look, args=(answer,), name="standing", daemon=True).start()
        try:
            return answer.get(timeout=self._patience)
        except Empty:
            problem = f"the store has not answered within {self._patience:g} s"
            log.warning("what stands is unknown", problem=problem)
            return None

    def _look(self, answer: SimpleQueue[Gauges | None]) -> None:
        try:
            answer.put(list(_gauges(self._source.read())))
        except TidemillError as error:
            log.warning("what stands is unknown", problem=error.message)
            answer.put(None)
        except Exception as error:  # else the scrape waits in vain, and blames a slow store
            problem = f"{type(error).__name__}: {error}"
            log.exception("what stands is unknown", problem=problem)
            answer.put(None)
        finally:
            self._reading.release()


def _gauges(standing: Standing) -> Iterator[GaugeMetricFamily]:
    newest = {model: verdicts[-1] for model, verdicts in standing.windows.items()}
    yield from _windows(standing)
    yield from _tiers(newest)
    yield from _numbers(newest)
    yield _incidents(standing)
    yield from _retraining(standing)


def _windows(standing: Standing) -> Iterable[GaugeMetricFamily]:
    end = _gauge("monitor_last_window_timestamp_seconds", "End of the last window.", "model")
    length = _gauge(
        "monitor_window_length_seconds", "How far the last window's end is behind the one before.",
        "model",
    )  # fmt: skip
    rows = _gauge("monitor_last_window_rows", "Rows of the last window.", "model")
    status = _gauge("monitor_last_window_status", "1: so the last window ended.", "model", "status")
    for model, verdicts in standing.windows.items():
        last = verdicts[-1]
        before = verdicts[0].end if len(verdicts) > 1 else last.start
        end.add_metric([model], _seconds(last.end))
        length.add_metric([model], _seconds(last.end) - _seconds(before))
        rows.add_metric([model], last.rows)
        for one in get_args(Status):
            status.add_metric([model, one], int(last.status == one))
    return end, length, rows, status


def _tiers(newest: dict[str, WindowVerdict]) -> Iterable[GaugeMetricFamily]:
    """Tell what fired; a tier that was not judged is not told to be silent."""
    judged = _gauge("monitor_tier_judged", "1: the last window could be judged.", "model", "tier")
    fired = _gauge("monitor_tier_fired", "1: a finding in the last window.", "model", "tier")
    for model, verdict in newest.items():
        for tier in TIERS:
            unknown = tier in verdict.unevaluated
            judged.add_metric([model, tier], int(not unknown))
            if tier in verdict.fired or not unknown:
                fired.add_metric([model, tier], int(tier in verdict.fired))
    return judged, fired


def _numbers(newest: dict[str, WindowVerdict]) -> Iterable[GaugeMetricFamily]:
    psi = _gauge(
        "monitor_psi", "qPSI of a column, or of score, in the last window.", "model", "column"
    )
    z = _gauge(
        "monitor_performance_z", "Gap between labels and promise, in standard deviations.",
        "model", "metric",
    )  # fmt: skip
    for model, verdict in newest.items():
        for column, value in verdict.psi.items():
            psi.add_metric([model, column], value)
        for metric in Gaps._fields:
            if f"{metric}_z" in verdict.performance:
                z.add_metric([model, metric], verdict.performance[f"{metric}_z"])
    return psi, z


def _incidents(standing: Standing) -> GaugeMetricFamily:
    seen = _gauge(
        "incident_first_seen_timestamp_seconds",
        "Start of the first window that raised an incident; there as long as it stands.",
        *("model", "revision", "cause", "incident", "state"),
    )
    for one in standing.incidents:
        seen.add_metric(
            [one.model, one.revision, one.cause, one.id, one.state], _seconds(one.first_seen)
        )
    return seen


def _retraining(standing: Standing) -> Iterable[GaugeMetricFamily]:
    requests = _gauge("retrain_requests", "Requests by state.", "model", "state")
    for model, states in standing.requests.items():
        for state in get_args(RequestState):
            requests.add_metric([model, state], states.get(state, 0))
    decided = _gauge(
        "retrain_last_decision_timestamp_seconds", "When the governor last answered so.",
        "model", "verb",
    )  # fmt: skip
    for model, verbs in standing.decisions.items():
        for verb, at in verbs.items():
            decided.add_metric([model, verb], at.timestamp())
    return requests, decided


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidemill_{name}", text, labels=labels)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
