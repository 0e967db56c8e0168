"""Work that falls due again and again as the clock goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from tidemill.errors import RetryableError, TidemillError
from tidemill.ports.clock import Clock

__all__ = ["due", "repeat"]

log = structlog.get_logger(__name__)


def due(now: datetime, every: timedelta) -> datetime:
    """Return the newest multiple of `every` since 1970 UTC at or before `now`."""
    seconds = every.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)


def repeat(
    work: Callable[[datetime], object],
    clock: Clock,
    every: timedelta,
    *,
    patient: tuple[type[TidemillError], ...] = (RetryableError,),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `work` with the clock's instant whenever that passes a multiple of `every`, for ever.

    Steps that are over are skipped. After one of the `patient` errors the work is tried again at
    the next look, the reason logged when it is a new one; any other error ends this.
    """
    done: datetime | None = None
    reason = ""
    while True:
        now = clock.now()
        step = due(now, every)
        if done is None or step > done:
            try:
                work(now)
                done, reason = step, ""
            except patient as error:
                if error.message != reason:
                    reason = error.message
                    log.warning("failed, trying again", clock=now.isoformat(), reason=reason)
        sleep(clock.poll_seconds)
