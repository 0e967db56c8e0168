"""watch: one round of monitoring: judge what is due, ask the governor, draw the evidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from tidemill.domain.governor import Request
from tidemill.domain.incidents import Incident
from tidemill.errors import NotFound, RetryableError
from tidemill.ports.clock import Clock
from tidemill.steps.monitor import Judged, Monitor
from tidemill.steps.repeat import repeat
from tidemill.steps.retrain import Governor

__all__ = ["Round", "follow"]

log = structlog.get_logger(__name__)


class Round:
    """What happens after every window."""

    def __init__(
        self, monitor: Monitor, governor: Governor, draw: Callable[[Incident], None]
    ) -> None:
        """`draw` begins the report of a new incident and does not wait for it."""
        self._monitor = monitor
        self._governor = governor
        self._draw = draw

    def run(
        self, seen: Callable[[Judged, tuple[Request, ...]], None] = lambda _judged, _requests: None
    ) -> list[Judged]:
        """Judge every window that is due, then decide again what waits; raises as `Monitor.run`."""

        def after(judged: Judged) -> None:
            standing = [incident for incident in judged.incidents if incident.unresolved]
            requests = tuple(self._governor.consider(incident) for incident in standing)
            for incident in standing:
                if incident.first_seen == judged.verdict.start:
                    self._draw(incident)
            seen(judged, requests)

        done = self._monitor.run(after)
        self._governor.advance()
        return done


def follow(rounds: Round, clock: Clock, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Run a round every hour of the clock, until stopped; a log that is not there is waited for."""

    def work(_now: datetime) -> None:
        for judged in rounds.run():
            _tell(judged)

    repeat(work, clock, timedelta(hours=1), patient=(RetryableError, NotFound), sleep=sleep)


def _tell(judged: Judged) -> None:
    verdict = judged.verdict
    log.info(
        "window",
        end=verdict.end,
        rows=verdict.rows,
        status=verdict.status,
        cause=verdict.cause,
        unevaluated=sorted(verdict.unevaluated),
        incidents=[incident.id for incident in judged.incidents],
    )
