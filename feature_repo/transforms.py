"""From raw tables to feature tables: the polars code behind the views of `definitions.py`.

Every row carries the instant at which its values became knowable, and uses nothing that happened
later: an arrival counts from `arrived_at`, a departure from `departed_at`, a cancellation from
three hours after the scheduled departure, an observation from `available_at`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import polars as pl

LATE_MINUTES = 15
"""A flight is late when it arrives or departs more than this after its schedule."""
FATE_KNOWN = timedelta(hours=3)
"""A cancellation is known this long after the scheduled departure."""
DAY, WEEK, MONTH = timedelta(days=1), timedelta(days=7), timedelta(days=28)
"""Windows; `features.lookback_days` covers the longest."""
DAY_BEGINS = timedelta(hours=9)
"""Daily statistics are taken at 09:00 UTC: after the night's last arrivals, before the first
departures of New York's morning."""
ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
"""Event timestamp of what never changes: aircraft and the calendar."""
WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
VALUES = ("delay", "late", "cancelled")
"""What is summed over windows, per event."""
Raw = Mapping[str, pl.LazyFrame]


def tables(
    raw: Raw, *, step_minutes: int, since: datetime | None, until: datetime | None
) -> dict[str, pl.DataFrame]:
    """Compute every view's table: join keys, `event_timestamp`, one column per feature.

    Rows have `since <= event_timestamp <= until`; None means the first and the last instant of the
    data. Views without a clock (`plane`, `calendar`) are always given whole.
    """
    flights = raw["flights"].collect()
    first, last = _span(flights, since, until)
    steps = _instants(first, last, timedelta(minutes=step_minutes), timedelta())
    days = _instants(first, last, DAY, DAY_BEGINS)
    return {
        "carrier_delay": carrier_delay(flights, steps),
        "route_stats": route_stats(flights, days),
        "origin_congestion": origin_congestion(flights, steps),
        "origin_weather": origin_weather(raw["weather"], first, last),
        "plane": plane(raw["planes"]),
        "calendar": calendar(flights),
    }


def spine(raw: Raw, *, horizon_minutes: int) -> pl.DataFrame:
    """Give each scheduled flight a row: when it is scored, its keys, its request, its label."""
    arrived = pl.col("arr_delay").is_not_null() & pl.col("arrived_at").is_not_null()
    return (
        raw["flights"]
        .select(
            "flight_id",
            (pl.col("scheduled_at") - timedelta(minutes=horizon_minutes)).alias("event_timestamp"),
            "scheduled_at",
            "carrier",
            "origin",
            "dest",
            "tailnum",
            "local_date",
            "sched_minute",
            "distance",
            "flight_year",
            "month",
            pl.when(arrived).then(pl.col("arr_delay") > LATE_MINUTES).cast(pl.Int8).alias("late"),
            pl.when(arrived).then(pl.col("arrived_at")).alias("label_at"),
        )
        .sort("event_timestamp", "flight_id")
        .collect()
    )


def carrier_delay(flights: pl.DataFrame, steps: pl.Series) -> pl.DataFrame:
    """Tell how late a carrier's flights arrived, over the last day and the last week."""
    arrivals = _arrivals(flights)
    day = _totals(arrivals, ["carrier"], steps, DAY)
    week = _totals(arrivals, ["carrier"], steps, WEEK)
    return (
        week.join(day, on=["carrier", "event_timestamp"], suffix="_day")
        .filter(pl.col("rows") > 0)
        .select(
            "carrier",
            "event_timestamp",
            carrier_late_rate_1d=_ratio("late_day", "rows_day"),
            carrier_late_rate_7d=_ratio("late", "rows"),
            carrier_mean_delay_1d=_ratio("delay_day", "rows_day"),
        )
    )


def route_stats(flights: pl.DataFrame, days: pl.Series) -> pl.DataFrame:
    """Tell how late a route's flights arrived over the last four weeks, and how many they were."""
    month = _totals(_arrivals(flights), ["origin", "dest"], days, MONTH)
    return month.filter(pl.col("rows") > 0).select(
        "origin",
        "dest",
        "event_timestamp",
        route_late_rate_28d=_ratio("late", "rows"),
        route_mean_delay_28d=_ratio("delay", "rows"),
        route_flights_28d="rows",
    )


def origin_congestion(flights: pl.DataFrame, steps: pl.Series) -> pl.DataFrame:
    """Sum departures of the last three hours, cancellations known since the last six."""
    departures = flights.filter(pl.col("dep_delay").is_not_null()).select(
        "origin",
        at="departed_at",
        delay="dep_delay",
        late=(pl.col("dep_delay") > LATE_MINUTES).cast(pl.Float64),
    )
    fates = flights.select(
        "origin",
        at=pl.col("scheduled_at") + FATE_KNOWN,
        cancelled=pl.col("cancelled").fill_null(value=False).cast(pl.Float64),
    )
    left = _totals(departures, ["origin"], steps, timedelta(hours=3))
    fate = _totals(fates, ["origin"], steps, timedelta(hours=6))
    return (
        left.join(fate, on=["origin", "event_timestamp"], suffix="_fate")
        .filter(pl.col("rows") + pl.col("rows_fate") > 0)
        .select(
            "origin",
            "event_timestamp",
            origin_dep_delay_3h=_ratio("delay", "rows"),
            origin_late_rate_3h=_ratio("late", "rows"),
            origin_cancelled_rate_6h=_ratio("cancelled", "rows_fate"),
            origin_departures_3h="rows",
        )
    )


def origin_weather(weather: pl.LazyFrame, first: datetime, last: datetime) -> pl.DataFrame:
    """Take the observations of each airport, from the instant they were available."""
    return (
        weather.filter(pl.col("available_at").is_between(first, last))
        .select("origin", pl.col("available_at").alias("event_timestamp"), *WEATHER)
        .sort("event_timestamp", "origin")
        .collect()
    )


def plane(planes: pl.LazyFrame) -> pl.DataFrame:
    """Take age and size of each aircraft."""
    return (
        planes.select(
            "tailnum",
            pl.lit(ALWAYS).dt.cast_time_unit("us").alias("event_timestamp"),
            pl.col("plane_year", "seats", "engines").cast(pl.Int64),
        )
        .sort("tailnum")
        .collect()
    )


def calendar(flights: pl.DataFrame) -> pl.DataFrame:
    """Give each date its day of the week (Monday is 1) and its days to the nearest holiday.

    Dates run from the first scheduled year to the end of the one after the last.
    """
    years = flights.select(
        pl.col("local_date").min().str.head(4).cast(pl.Int32).alias("first"),
        pl.col("local_date").max().str.head(4).cast(pl.Int32).alias("last"),
    ).row(0)
    if years[0] is None:
        years = (ALWAYS.year, ALWAYS.year)
    holidays = [day for year in range(years[0] - 1, years[1] + 3) for day in _holidays(year)]
    days = pl.date_range(date(years[0], 1, 1), date(years[1] + 1, 12, 31), eager=True)
    nearest = days.to_frame("day").join_asof(
        pl.DataFrame({"holiday": sorted(holidays)}),
        left_on="day",
        right_on="holiday",
        strategy="nearest",
    )
    return nearest.select(
        pl.col("day").dt.to_string("%Y-%m-%d").alias("local_date"),
        pl.col("day").dt.weekday().cast(pl.Int64).alias("day_of_week"),
        (pl.col("day") - pl.col("holiday")).dt.total_days().abs().alias("days_to_holiday"),
        pl.lit(ALWAYS).dt.cast_time_unit("us").alias("event_timestamp"),
    )


def _holidays(year: int) -> list[date]:
    """List the federal holidays of the United States around which people fly."""
    return [
        date(year, 1, 1),
        _weekday(year, 1, 0, 3),
        _weekday(year, 2, 0, 3),
        _weekday(year, 6, 0, 1) - timedelta(days=7),
        date(year, 7, 4),
        _weekday(year, 9, 0, 1),
        _weekday(year, 11, 3, 4),
        date(year, 12, 25),
    ]


def _weekday(year: int, month: int, weekday: int, nth: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _arrivals(flights: pl.DataFrame) -> pl.DataFrame:
    return flights.filter(pl.col("arr_delay").is_not_null()).select(
        "carrier",
        "origin",
        "dest",
        at="arrived_at",
        delay="arr_delay",
        late=(pl.col("arr_delay") > LATE_MINUTES).cast(pl.Float64),
    )


def _totals(
    events: pl.DataFrame, keys: Sequence[str], instants: pl.Series, window: timedelta
) -> pl.DataFrame:
    """Sum the events of `(instant - window, instant]` for every key and instant.

    Columns: keys, `event_timestamp`, `rows` (count), and the sum of each value. Whole numbers of
    minutes add up without rounding, so a rebuild from a later start gives equal bytes.
    """
    values = [name for name in VALUES if name in events.columns]
    totals = [*values, "rows"]
    begin = instants.min() - window if len(instants) else ALWAYS
    running = (
        events.lazy()
        .filter(pl.col("at") > begin)
        .sort("at")
        .with_columns(pl.lit(1.0).alias("rows"))
        .with_columns(pl.col(name).cum_sum().over(keys) for name in totals)
        .select(*keys, "at", *totals)
    )
    grid = (
        events.lazy()
        .select(keys)
        .unique()
        .join(instants.to_frame("event_timestamp").lazy(), how="cross")
        .with_columns((pl.col("event_timestamp") - window).alias("begin"))
        .sort("event_timestamp", *keys)
    )
    for instant, suffix in (("event_timestamp", ""), ("begin", "_begin")):
        grid = grid.join_asof(
            running.rename({name: f"{name}{suffix}" for name in totals}),
            left_on=instant,
            right_on="at",
            by=list(keys),
            check_sortedness=False,
            coalesce=True,
        )
    return grid.select(
        *keys,
        "event_timestamp",
        *(
            (pl.col(name).fill_null(0.0) - pl.col(f"{name}_begin").fill_null(0.0)).alias(name)
            for name in totals
        ),
    ).collect()


def _ratio(total: str, rows: str) -> pl.Expr:
    """Divide a total by its count; null when there was nothing to count."""
    return pl.when(pl.col(rows) > 0).then(pl.col(total) / pl.col(rows))


def _span(
    flights: pl.DataFrame, since: datetime | None, until: datetime | None
) -> tuple[datetime, datetime]:
    """Bound the grids: after the last event plus the longest window every total is empty."""
    first = since or flights["scheduled_at"].min() or ALWAYS
    happened = (flights[name].max() for name in ("scheduled_at", "departed_at", "arrived_at"))
    last = max((instant for instant in happened if instant), default=first) + MONTH
    return first, min(last, until or last)


def _instants(first: datetime, last: datetime, every: timedelta, offset: timedelta) -> pl.Series:
    """List the instants within [first, last] of a grid anchored to 1970-01-01 UTC + `offset`."""
    origin = datetime(1970, 1, 1, tzinfo=UTC) + offset
    begin = origin - ((origin - first) // every) * every
    return pl.datetime_range(begin, last, every, time_unit="us", time_zone="UTC", eager=True)
