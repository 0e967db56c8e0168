"""The leak check is silent on the project's features and catches a leak planted in each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tidemill.adapters.feast_definitions import Definitions
from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.adapters.project_code import load
from tidemill.bundle import FeatureService
from tidemill.settings.features import FeatureSettings
from tidemill.steps.leaks import LeakCheck, find_leaks

AS_OF = datetime(2013, 3, 1, tzinfo=UTC)
FLIGHTS = Path(__file__).parents[2] / "feature_repo"
RIGHT: Any = load(FLIGHTS / "transforms.py")
Raw = Mapping[str, pl.LazyFrame]
Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def service() -> FeatureService:
    """The service as the repository defines it."""
    return Definitions(FLIGHTS, "flights", Path()).resolve("flight_delay_v1")


@dataclass(frozen=True)
class Planted:
    """The project's features, one view of which is computed from other raw data."""

    view: str
    change: Callable[[Raw], Raw] = lambda raw: raw
    spoil: Callable[[pl.DataFrame, Raw], pl.DataFrame] = lambda table, _: table

    def tables(self, raw: Raw, **options: Any) -> Tables:
        tables: Tables = RIGHT.tables(raw, **options)
        changed: Tables = RIGHT.tables(self.change(raw), **options)
        return tables | {self.view: self.spoil(changed[self.view], raw)}

    def spine(self, raw: Raw, *, horizon_minutes: int) -> pl.DataFrame:
        found: pl.DataFrame = RIGHT.spine(raw, horizon_minutes=horizon_minutes)
        return found


def flights(**columns: pl.Expr) -> Callable[[Raw], Raw]:
    return lambda raw: {**raw, "flights": raw["flights"].with_columns(**columns)}


def weather(**columns: pl.Expr) -> Callable[[Raw], Raw]:
    return lambda raw: {**raw, "weather": raw["weather"].with_columns(**columns)}


def mean_delay_of_all_time(table: pl.DataFrame, raw: Raw) -> pl.DataFrame:
    delays = raw["flights"].group_by("tailnum").agg(pl.col("arr_delay").mean()).collect()
    return table.join(delays, on="tailnum", how="left").with_columns(engines="arr_delay")


def cancellations_of_the_day(table: pl.DataFrame, raw: Raw) -> pl.DataFrame:
    days = raw["flights"].group_by("local_date").agg(pl.col("cancelled").sum()).collect()
    return table.join(days, on="local_date", how="left").with_columns(days_to_holiday="cancelled")


PLANTED = [
    Planted("carrier_delay", flights(arrived_at=pl.col("scheduled_at"))),
    Planted("route_stats", flights(arrived_at=pl.col("departed_at"))),
    Planted("origin_congestion", flights(departed_at=pl.col("scheduled_at"))),
    Planted(
        "origin_congestion", flights(scheduled_at=pl.col("scheduled_at") - pl.duration(hours=3))
    ),
    Planted("origin_weather", weather(available_at=pl.col("observed_at"))),
    Planted("plane", spoil=mean_delay_of_all_time),
    Planted("calendar", spoil=cancellations_of_the_day),
]


def check(
    source: Nycflights13, transforms: Any, service: FeatureService, as_of: datetime = AS_OF
) -> LeakCheck:
    return find_leaks(
        source,
        transforms,
        FeatureSettings(),
        service,
        months=["2013-01", "2013-02"],
        as_of=as_of,
    )


def test_a_leak_is_planted_in_every_view(service: FeatureService) -> None:
    assert {planted.view for planted in PLANTED} == {view.name for view in service.views}


@pytest.mark.slow
def test_the_right_definition_knows_no_future(
    flights_source: Nycflights13, service: FeatureService
) -> None:
    found = check(flights_source, RIGHT, service)
    assert found.leaks == ()
    assert found.rows > 50_000
    hours = {cut_off.hour for cut_off in found.cut_offs}
    assert 9 in hours, "no cut-off on the daily grid"
    assert all(cut_off.minute == 0 for cut_off in found.cut_offs)


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.view)
def test_a_planted_leak_is_caught(
    flights_source: Nycflights13, service: FeatureService, planted: Planted
) -> None:
    found = check(flights_source, planted, service, datetime(2013, 2, 1, tzinfo=UTC))
    assert {leak.view for leak in found.leaks} == {planted.view}
