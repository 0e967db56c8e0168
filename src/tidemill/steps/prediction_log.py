"""The prediction log and the labels, read by time; their layout is in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from tidemill.errors import NotFound
from tidemill.ports.objects import ObjectStore

__all__ = ["Read", "days", "read_labels", "read_predictions"]

SAMPLED = "sampled"
"""Whether a row is in the share of all requests that is logged; labels and older logs lack it."""


@dataclass(frozen=True, slots=True)
class Read:
    """Rows of a period, and the files in it that could not be read."""

    frame: pl.DataFrame
    """Empty and without columns when there was no readable file."""
    unreadable: tuple[str, ...] = ()


def read_predictions(
    objects: ObjectStore,
    model: str,
    start: datetime,
    end: datetime,
    columns: tuple[str, ...] = (),
) -> Read:
    """Return the predictions with `start <= at < end`, ordered by `at`.

    Rows that are in the log by a rule alone (`sampled` is false) are left out: they are no picture
    of the traffic. `columns` limits what is read; a column that a file lacks is null there. Files
    may differ in type: the wider type wins, so a number once written as text arrives as text.
    """
    return _read(objects, f"predictions/{model}", "at", start, end, columns)


def read_labels(objects: ObjectStore, model: str, start: datetime, end: datetime) -> Read:
    """Return the labels with `start <= scheduled_at < end`, one per `row_id`: the last known."""
    read = _read(objects, f"labels/{model}", "scheduled_at", start, end, ())
    if read.frame.is_empty():
        return read
    newest = read.frame.sort("label_at").unique("row_id", keep="last", maintain_order=True)
    return Read(newest, read.unreadable)


def _read(
    objects: ObjectStore,
    prefix: str,
    at: str,
    start: datetime,
    end: datetime,
    columns: tuple[str, ...],
) -> Read:
    frames: list[pl.DataFrame] = []
    unreadable: list[str] = []
    for day in days(start, end):
        contents = {}
        for key in objects.list(f"{prefix}/dt={day}/"):
            try:
                contents[key] = objects.get(key)
            except (NotFound, OSError) as error:
                unreadable.append(_told(key, error))
        frames += _frames(contents, columns, unreadable)
    if not frames:
        return Read(pl.DataFrame(), tuple(unreadable))
    frame = pl.concat(frames, how="diagonal_relaxed")
    if at not in frame.columns:
        return Read(pl.DataFrame(), (*unreadable, f"{prefix}: no column {at}"))
    inside = frame.filter((pl.col(at) >= start) & (pl.col(at) < end)).sort(at)
    return Read(inside, tuple(unreadable))


def _frames(
    contents: Mapping[str, bytes], columns: tuple[str, ...], unreadable: list[str]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of the files of a day, and note those that cannot be read."""
    with suppress(pl.exceptions.PolarsError):  # a sixth of the time of reading one by one
        if contents:
            yield _parsed(list(contents.values()), columns)
        return
    for key, content in contents.items():
        try:
            yield _parsed([content], columns)
        except pl.exceptions.PolarsError as error:
            unreadable.append(_told(key, error))


def _parsed(contents: list[bytes], columns: tuple[str, ...]) -> pl.DataFrame:
    """Return the rows of files of one schema; raises PolarsError."""
    rows = pl.scan_parquet(contents)
    present = rows.collect_schema()
    sampled = rows.filter(SAMPLED) if SAMPLED in present else rows
    return sampled.select(c for c in columns or present if c in present).collect()


def _told(key: str, error: Exception) -> str:
    return f"{key} ({type(error).__name__})"


def days(start: datetime, end: datetime) -> Iterator[date]:
    """Yield every day that [start, end) touches."""
    day = start.date()
    while day < end.date() or (day == end.date() and end.time() > datetime.min.time()):
        yield day
        day += timedelta(days=1)
