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
from tidemill.steps.retrain import Governor

__all__ = ["POLL_SECONDS", "Round", "follow"]

POLL_SECONDS = 0.2
"""Wall time between two looks at the clock: a replay may run a day in a second."""
REVIEW = timedelta(hours=1)
"""Time of the clock between two reviews of what waits."""
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
    """Run a round whenever the clock has moved on by an hour, until the process is stopped.

    What may succeed later is tried again at the next look; a log that is not there yet, too.
    """
    last: datetime | None = None
    reason = ""
    while True:
        now = clock.now()
        if last is None or now >= last + REVIEW:
            try:
                for judged in rounds.run():
                    _tell(judged)
                last, reason = now, ""
            except (RetryableError, NotFound) as error:
                if error.message != reason:
                    reason = error.message
                    log.warning("round failed, trying again", clock=now.isoformat(), reason=reason)
        sleep(POLL_SECONDS)


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
