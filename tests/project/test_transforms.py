"""The project's features: values by hand, grids, and rebuilds from a later start."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.adapters.project_code import load

TRANSFORMS: Any = load(Path(__file__).parents[2] / "feature_repo" / "transforms.py")
DAY = datetime(2013, 2, 10, tzinfo=UTC)


def minutes(later: timedelta) -> float:
    return later.total_seconds() / 60


def lates(rows: list[dict[str, Any]], delay: str) -> float:
    return sum(row[delay] > 15 for row in rows) / len(rows)


@pytest.fixture(scope="module")
def raw(flights_source: Nycflights13) -> dict[str, pl.LazyFrame]:
    as_of = DAY + timedelta(days=1)
    return {
        table: pl.concat(
            flights_source.read(table, period, as_of)
            for period in (["static"] if cadence == "static" else ["2013-01", "2013-02"])
        ).lazy()
        for table, cadence in flights_source.tables().items()
    }


@pytest.fixture(scope="module")
def tables(raw: dict[str, pl.LazyFrame]) -> dict[str, pl.DataFrame]:
    found: dict[str, pl.DataFrame] = TRANSFORMS.tables(
        raw, step_minutes=180, since=None, until=DAY + timedelta(days=1)
    )
    return found


@pytest.fixture(scope="module")
def rows(raw: dict[str, pl.LazyFrame]) -> list[dict[str, Any]]:
    return raw["flights"].collect().to_dicts()


def value(table: pl.DataFrame, at: datetime, **keys: str) -> dict[str, Any]:
    found = table.filter(
        pl.col("event_timestamp") == at, *(pl.col(name) == key for name, key in keys.items())
    )
    return found.row(0, named=True)


def test_a_carriers_delay_counts_what_had_arrived(
    tables: dict[str, pl.DataFrame], rows: list[dict[str, Any]]
) -> None:
    at = DAY + timedelta(hours=18)
    found = value(tables["carrier_delay"], at, carrier="B6")
    arrived = [r for r in rows if r["carrier"] == "B6" and r["arr_delay"] is not None]
    day = [r for r in arrived if at - timedelta(days=1) < r["arrived_at"] <= at]
    week = [r for r in arrived if at - timedelta(days=7) < r["arrived_at"] <= at]
    assert found["carrier_late_rate_1d"] == lates(day, "arr_delay")
    assert found["carrier_late_rate_7d"] == lates(week, "arr_delay")
    assert found["carrier_mean_delay_1d"] == sum(r["arr_delay"] for r in day) / len(day)


def test_a_route_counts_the_arrivals_of_four_weeks(
    tables: dict[str, pl.DataFrame], rows: list[dict[str, Any]]
) -> None:
    at = DAY + timedelta(hours=9)
    found = value(tables["route_stats"], at, origin="JFK", dest="LAX")
    arrived = [
        r
        for r in rows
        if (r["origin"], r["dest"]) == ("JFK", "LAX")
        and r["arr_delay"] is not None
        and at - timedelta(days=28) < r["arrived_at"] <= at
    ]
    assert found["route_flights_28d"] == len(arrived)
    assert found["route_late_rate_28d"] == lates(arrived, "arr_delay")
    assert found["route_mean_delay_28d"] == sum(r["arr_delay"] for r in arrived) / len(arrived)


def test_an_origins_congestion_counts_departures_and_known_cancellations(
    tables: dict[str, pl.DataFrame], rows: list[dict[str, Any]]
) -> None:
    at = DAY + timedelta(hours=21)
    found = value(tables["origin_congestion"], at, origin="LGA")
    mine = [r for r in rows if r["origin"] == "LGA"]
    left = [
        r for r in mine if r["departed_at"] and at - timedelta(hours=3) < r["departed_at"] <= at
    ]
    fates = [
        r for r in mine if at - timedelta(hours=6) < r["scheduled_at"] + timedelta(hours=3) <= at
    ]
    assert found["origin_departures_3h"] == len(left)
    assert found["origin_dep_delay_3h"] == sum(r["dep_delay"] for r in left) / len(left)
    assert found["origin_late_rate_3h"] == lates(left, "dep_delay")
    cancelled = sum(bool(r["cancelled"]) for r in fates)
    assert found["origin_cancelled_rate_6h"] == cancelled / len(fates)
    assert cancelled > 0, "a day without cancellations proves nothing"


def test_weather_is_stamped_when_it_was_available(
    tables: dict[str, pl.DataFrame], raw: dict[str, pl.LazyFrame]
) -> None:
    observed = raw["weather"].collect().row(100, named=True)
    at = observed["observed_at"] + timedelta(hours=1)
    found = value(tables["origin_weather"], at, origin=observed["origin"])
    assert found["temp"] == observed["temp"]


def test_a_rebuild_from_a_later_start_gives_the_same_rows(
    raw: dict[str, pl.LazyFrame], tables: dict[str, pl.DataFrame]
) -> None:
    since, until = DAY, DAY + timedelta(days=1)
    recent = TRANSFORMS.tables(raw, step_minutes=180, since=since, until=until)
    for name in ("carrier_delay", "route_stats", "origin_congestion", "origin_weather"):
        wanted = tables[name].filter(pl.col("event_timestamp").is_between(since, until))
        assert wanted.height > 0
        assert_frame_equal(recent[name], wanted, check_exact=True)


def test_grids_do_not_depend_on_the_start(raw: dict[str, pl.LazyFrame]) -> None:
    odd = DAY + timedelta(hours=1, minutes=7)
    recent = TRANSFORMS.tables(raw, step_minutes=180, since=odd, until=DAY + timedelta(days=1))
    assert set(recent["carrier_delay"]["event_timestamp"].dt.hour()) <= {0, 3, 6, 9, 12, 15, 18, 21}
    assert set(recent["route_stats"]["event_timestamp"].dt.hour()) == {9}
    assert recent["carrier_delay"]["event_timestamp"].min() >= odd


def test_keys_and_instants_are_unique(tables: dict[str, pl.DataFrame]) -> None:
    keys = {
        "carrier_delay": ["carrier"],
        "route_stats": ["origin", "dest"],
        "origin_congestion": ["origin"],
        "origin_weather": ["origin"],
        "plane": ["tailnum"],
        "calendar": ["local_date"],
    }
    for name, columns in keys.items():
        assert not tables[name].select(*columns, "event_timestamp").is_duplicated().any()


@pytest.mark.parametrize(
    ("day", "weekday", "nearest"),
    [
        ("2013-01-01", 2, 0),
        ("2013-11-28", 4, 0),  # Thanksgiving
        ("2013-05-27", 1, 0),  # Memorial Day
        ("2013-12-27", 5, 2),
        ("2013-12-30", 1, 2),
    ],
)
def test_the_calendar(
    tables: dict[str, pl.DataFrame], day: str, weekday: int, nearest: int
) -> None:
    found = tables["calendar"].filter(pl.col("local_date") == day).row(0, named=True)
    assert (found["day_of_week"], found["days_to_holiday"]) == (weekday, nearest)
    assert date.fromisoformat(day).isoweekday() == weekday


def test_the_spine_has_a_row_per_flight_and_its_label_when_it_arrived(
    raw: dict[str, pl.LazyFrame], rows: list[dict[str, Any]]
) -> None:
    spine = TRANSFORMS.spine(raw, horizon_minutes=60)
    assert spine.height == len(rows)
    assert spine["flight_id"].is_unique().all()
    by_id = {r["flight_id"]: r for r in rows}
    for row in spine.sample(500, seed=1).iter_rows(named=True):
        flight = by_id[row["flight_id"]]
        assert minutes(flight["scheduled_at"] - row["event_timestamp"]) == 60
        delay = flight["arr_delay"]
        assert row["late"] == (None if delay is None else int(delay > 15))
        assert row["label_at"] == (None if delay is None else flight["arrived_at"])
