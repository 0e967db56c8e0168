"""Materialise: keep the online store filled with what is known, as the clock goes on.

The follower reads the source itself, not the validated partitions: a value that is late for a
prediction is worth nothing. What it serves is watched by the monitors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import polars as pl
import structlog

from tidemill.domain.months import STATIC, month_of, months
from tidemill.errors import RetryableError
from tidemill.ports.clock import Clock
from tidemill.ports.data import Source
from tidemill.ports.features import FeatureSource, Materialised, Transforms
from tidemill.settings.features import FeatureSettings
from tidemill.steps.featurize import compute, write_tables

__all__ = ["POLL_SECONDS", "Follower", "due", "follow"]

POLL_SECONDS = 0.2
"""Wall time between two looks at the clock: a replay may run a day in a second."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Follower:
    """Brings the online store up to an instant, from the source."""

    source: Source
    transforms: Transforms
    features: FeatureSource
    settings: FeatureSettings
    start: str
    """First month of the source, YYYY-MM: it is never asked for an earlier one."""
    tables: Path
    """Folder of the recent feature tables; nobody else writes there."""

    def tick(self, now: datetime) -> Materialised:
        """Read what is known at `now`, rebuild the recent feature tables, materialise them.

        Raises Refused when the store is already filled up to a later instant.
        """
        since = now - self._oldest
        raw = self._raw(since - timedelta(days=self.settings.lookback_days), now)
        write_tables(
            compute(raw, self.transforms, self.settings, since=since, until=now), self.tables
        )
        return self.features.materialise(self.settings.service, self.tables, now)

    @cached_property
    def _oldest(self) -> timedelta:
        """The longest ttl: no older value can be served."""
        service = self.features.resolve(self.settings.service)
        return timedelta(seconds=max(view.ttl_seconds for view in service.views))

    def _raw(self, begin: datetime, now: datetime) -> dict[str, pl.LazyFrame]:
        recent = months(max(self.start, month_of(begin)), month_of(now))
        return {
            table: pl.concat(
                self.source.read(table, period, now)
                for period in ([STATIC] if cadence == STATIC else recent)
            ).lazy()
            for table, cadence in self.source.tables().items()
        }


def due(now: datetime, step_minutes: int) -> datetime:
    """Return the newest instant of the grid of snapshots at or before `now`."""
    seconds = step_minutes * 60
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)


def follow(
    follower: Follower, clock: Clock, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Tick whenever the clock passes an instant of the grid, until the process is stopped.

    A tick that may succeed later is tried again at the next look; any other error ends it.
    """
    done: datetime | None = None
    while True:
        now = clock.now()
        instant = due(now, follower.settings.step_minutes)
        if done is None or instant > done:
            try:
                filled = follower.tick(now)
                done = instant
                log.info("online store filled", as_of=now.isoformat(), **filled.rows)
            except RetryableError as error:
                log.warning("tick failed, trying again", as_of=now.isoformat(), reason=str(error))
        sleep(POLL_SECONDS)
