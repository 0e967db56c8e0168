"""Materialise: keep the online store filled with what is known, as the clock goes on.

The follower reads the source itself, not the validated partitions: a value that is late for a
prediction is worth nothing. What it serves is watched by the monitors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import structlog

from tidemill.ports.clock import Clock
from tidemill.ports.data import Source
from tidemill.ports.features import FeatureSource, Materialised, Transforms
from tidemill.settings.features import FeatureSettings
from tidemill.steps.featurize import compute, write_tables
from tidemill.steps.recompute import known_raw
from tidemill.steps.repeat import repeat

__all__ = ["Follower", "follow"]

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
        begin = since - timedelta(days=self.settings.lookback_days)
        raw = known_raw(self.source, begin, now, first=self.start)
        write_tables(
            compute(raw, self.transforms, self.settings, since=since, until=now), self.tables
        )
        return self.features.materialise(self.settings.service, self.tables, now)

    @cached_property
    def _oldest(self) -> timedelta:
        """The longest ttl: no older value can be served."""
        service = self.features.resolve(self.settings.service)
        return timedelta(seconds=max(view.ttl_seconds for view in service.views))


def follow(
    follower: Follower, clock: Clock, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Tick at every step of the clock, until stopped."""

    def work(now: datetime) -> None:
        filled = follower.tick(now)
        log.info("online store filled", as_of=now.isoformat(), **filled.rows)

    repeat(work, clock, timedelta(minutes=follower.settings.step_minutes), sleep=sleep)
