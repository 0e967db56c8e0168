"""labels: append the outcomes that became known since the last time to the label store."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
import structlog

from tidemill.errors import DataError, NotFound
from tidemill.ports.clock import Clock
from tidemill.ports.data import Source
from tidemill.ports.features import Transforms
from tidemill.ports.objects import ObjectStore
from tidemill.steps.featurize import AGREE
from tidemill.steps.recompute import known_raw
from tidemill.steps.repeat import repeat

__all__ = ["LabelFeed", "follow"]

LATE = timedelta(days=3)
"""How long after its scheduled instant an outcome may still become known."""
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LabelFeed:
    """Feeds the labels of one model.

    A file is named by the instant from which it counts, so a feed that was killed half-way writes
    the same files again, whole. The mark of how far it got is moved last.
    """

    model: str
    source: Source
    transforms: Transforms
    objects: ObjectStore
    row_id: str
    """Column of the spine that identifies a row."""
    label: str
    """Column of the spine that holds the label."""
    horizon_minutes: int
    first: str
    """First month of the source, YYYY-MM."""

    def collect(self, now: datetime) -> int:
        """Append the labels that became known after the last call and by `now`; return how many.

        Raises DataError when the source or `spine` lacks a column, Unavailable.
        """
        since = self._mark()
        if now <= since:
            return 0
        labels = self._known(since, now)
        for (day,), rows in labels.group_by(pl.col("scheduled_at").dt.date(), maintain_order=True):
            buffer = io.BytesIO()
            rows.write_parquet(buffer)
            name = f"{since:%Y%m%dT%H%M%S%f}"
            self.objects.put(f"labels/{self.model}/dt={day}/{name}.parquet", buffer.getvalue())
        body = json.dumps({"until": now.isoformat()}).encode()
        self.objects.put(self._mark_key, body)
        return labels.height

    @property
    def _mark_key(self) -> str:
        return f"labels/{self.model}/collected.json"

    def _mark(self) -> datetime:
        try:
            body = json.loads(self.objects.get(self._mark_key))
            return datetime.fromisoformat(body["until"])
        except NotFound:
            return NEVER
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the mark {self._mark_key} cannot be read: {error}",
                hint="delete that object: the feed begins anew and writes the same labels again",
            ) from error

    def _known(self, since: datetime, now: datetime) -> pl.DataFrame:
        first = datetime.fromisoformat(f"{self.first}-01T00:00:00+00:00")
        begin = max(since - LATE, first)
        raw = known_raw(self.source, begin, now, first=self.first)
        try:
            spine = self.transforms.spine(raw, horizon_minutes=self.horizon_minutes)
            return spine.filter(
                pl.col("label_at").is_between(since, now, closed="right"),
                pl.col(self.label).is_not_null(),
            ).select(
                pl.col(self.row_id).cast(pl.String).alias("row_id"),
                pl.col(self.label).cast(pl.Int8).alias("label"),
                "scheduled_at",
                "label_at",
            )
        except (KeyError, pl.exceptions.PolarsError) as error:
            raise DataError(f"the labels cannot be computed: {error}", hint=AGREE) from error


def follow(feed: LabelFeed, clock: Clock) -> None:
    """Append labels every hour of the clock, until stopped."""

    def work(now: datetime) -> None:
        log.info("labels", rows=feed.collect(now), until=now.isoformat())

    repeat(work, clock, timedelta(hours=1))
