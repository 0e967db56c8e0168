"""Matured outcomes: the prediction log joined with labels, per revision and weight.

An hour of requests counts once it is complete: its labels had `maturation` to arrive, both arms'
logs and the labels reach past it. So a slow log or label feed delays evidence and never bends it.
Labels that come later than `maturation` after the request are ignored.

`wrong` is a loss in [0, 1]. A score at or above the bundle's threshold predicts the event; a missed
event and a false alarm cost the inverse of their class's share (under stable, scaled to 1). Any
model that does not look at its input loses the same, however it leans. A request's loss is the mean
of its rows, rounded to twentieths.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import polars as pl

from tidemill.domain.evidence import LEVELS
from tidemill.domain.rollout.model import Revision, State
from tidemill.domain.rollout.readings import Cohort, Span
from tidemill.errors import NotFound
from tidemill.ports.objects import ObjectStore

__all__ = ["Outcomes", "costs"]

INSTANT = pl.Datetime("us", "UTC")
PREDICTION = pl.Schema(
    {
        "request_id": pl.String(),
        "row_id": pl.String(),
        "at": INSTANT,
        "revision": pl.String(),
        "score": pl.Float32(),
    }
)
SAMPLED = "sampled"
"""Rows that a rule alone keeps in the log are no evidence; labels and older logs lack the mark."""
LABEL = pl.Schema({"row_id": pl.String(), "label": pl.Int8(), "label_at": INSTANT})
DAY = timedelta(days=1)


class Outcomes:
    """Reads each file of log and labels once, as long as its rows may still be needed."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._files: dict[str, pl.DataFrame] = {}

    def matured(self, state: State, clock: datetime) -> tuple[tuple[Cohort, ...], datetime | None]:
        """Return what has matured since the attempt's cursor, and the cursor after it.

        `(), None` when that is nothing, when no metric waits for labels, or when both arms serve
        the same bundle: their rows in the log are not told apart.
        """
        attempt, arms = state.attempt, state.arms
        if attempt is None or arms is None or not attempt.evidence.spans:
            return (), None
        if arms[0].reported == arms[1].reported:
            return (), None
        if not any(metric.delayed for metric in attempt.plan.metrics):
            return (), None
        spans = attempt.evidence.spans
        start = attempt.evidence.matured_until or _hour(spans[0].since)
        maturation = timedelta(seconds=attempt.plan.maturation_seconds)
        if _hour(clock - maturation) <= start:
            return (), None
        model = attempt.canary.model
        log = self._load(f"predictions/{model}", PREDICTION, start, clock)
        labels = self._load(f"labels/{model}", LABEL, start, clock + DAY)
        until = _complete(log, labels, arms, clock, maturation)
        if until is None or until <= start:
            return (), None
        rows = _join(log.filter(_between("at", start, until)), labels, maturation)
        return tuple(_cohort(rows, span, arms) for span in spans), until

    def _load(self, prefix: str, schema: pl.Schema, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what the days from start to end hold; files of other days are forgotten."""
        keys = [
            key for day in _days(start, end) for key in self._objects.list(f"{prefix}/dt={day}/")
        ]
        for key in [k for k in self._files if k.startswith(f"{prefix}/") and k not in keys]:
            del self._files[key]
        for key in keys:
            if key not in self._files:
                self._files[key] = self._read(key, schema)
        return pl.concat([pl.DataFrame(schema=schema), *(self._files[key] for key in keys)])

    def _read(self, key: str, schema: pl.Schema) -> pl.DataFrame:
        try:
            content = self._objects.get(key)
            sampled = {SAMPLED} & pl.read_parquet_schema(io.BytesIO(content)).keys()
            frame = pl.read_parquet(io.BytesIO(content), columns=[*schema.names(), *sampled])
        except (NotFound, pl.exceptions.PolarsError):
            return pl.DataFrame(schema=schema)
        return frame.filter(*sampled).select(schema.names()).cast(schema)


def costs(event_share: float) -> tuple[float, float]:
    """Return what a missed event and a false alarm cost: inverse class shares, the larger is 1."""
    odds = event_share / (1 - event_share)
    return min(1.0, 1 / odds), min(1.0, odds)


def _complete(
    log: pl.DataFrame,
    labels: pl.DataFrame,
    arms: tuple[Revision, Revision],
    clock: datetime,
    maturation: timedelta,
) -> datetime | None:
    """Return the exclusive end of the hours about which nothing can arrive any more."""
    ends = [log.filter(pl.col("revision") == arm.reported)["at"].max() for arm in arms]
    known = labels["label_at"].max()
    reached = [end for end in ends if isinstance(end, datetime)]
    if len(reached) < len(arms) or not isinstance(known, datetime):
        return None
    return _hour(min(*reached, known - maturation, clock - maturation))


def _join(log: pl.DataFrame, labels: pl.DataFrame, maturation: timedelta) -> pl.DataFrame:
    known = labels.drop_nulls().sort("label_at").unique("row_id", keep="first")
    return (
        log.unique(["request_id", "row_id"], keep="first")
        .join(known, on="row_id", how="left")
        .with_columns(
            label=pl.when(pl.col("label_at") <= pl.col("at") + maturation).then(pl.col("label"))
        )
    )


def _cohort(rows: pl.DataFrame, span: Span, arms: tuple[Revision, Revision]) -> Cohort:
    """Count one weight's requests; those at its very edges are left out, they may be either's."""
    inside = pl.col("at") > span.since
    if span.until is not None:
        inside = inside & (pl.col("at") < span.until)
    missed, false_alarm = costs(arms[0].threshold)
    counts, levels = [], []
    for arm in arms:
        predicted = pl.col("score") >= arm.threshold
        loss = (
            pl.when(pl.col("label").is_null())
            .then(None)
            .when((pl.col("label") == 1) & ~predicted)
            .then(missed)
            .when((pl.col("label") == 0) & predicted)
            .then(false_alarm)
            .otherwise(0.0)
        )
        requests = (
            rows.filter(inside & (pl.col("revision") == arm.reported))
            .with_columns(loss=loss)
            .group_by("request_id")
            .agg(level=(pl.col("loss").mean() * LEVELS).round().cast(pl.Int64))
        )
        counts.append((requests.height, requests["level"].count()))
        tallied = requests["level"].drop_nulls().value_counts()
        levels.append(dict(tallied.iter_rows()))
    stable, canary = levels
    losses = tuple(
        (level, stable.get(level, 0), canary.get(level, 0))
        for level in sorted({*stable, *canary} - {0})
    )
    return Cohort(
        epoch=span.epoch,
        weight=span.weight,
        requests=(counts[0][0], counts[1][0]),
        labelled=(counts[0][1], counts[1][1]),
        losses=losses,
    )


def _between(column: str, start: datetime, end: datetime) -> pl.Expr:
    return (pl.col(column) >= start) & (pl.col(column) < end)


def _hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _days(start: datetime, end: datetime) -> Iterator[date]:
    for offset in range((end.date() - start.date()).days + 1):
        yield start.date() + timedelta(days=offset)
