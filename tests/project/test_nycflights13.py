"""The reference data, all of 2013: instants, identity, what was known when."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.domain.months import bounds, month_of, months
from tidemill.errors import NotFound
from tidemill.settings.contract import Contract, load_contract
from tidemill.steps.checks import Finding, Span, check_frame, check_rows

MONTHS = months("2013-01", "2014-01")
AFTER = datetime(2014, 2, 1, tzinfo=UTC)
CONTRACT = Path(__file__).parents[2] / "configs" / "contract.yaml"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(cache: Path) -> Nycflights13:
    return Nycflights13(cache)


@pytest.fixture(scope="module")
def flights(source: Nycflights13) -> pl.DataFrame:
    return pl.concat(source.read("flights", month, AFTER) for month in MONTHS)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(CONTRACT)


def test_every_flight_is_in_one_month_under_one_id(flights: pl.DataFrame) -> None:
    assert flights.height == 336_776
    assert flights["flight_id"].n_unique() == 336_776
    assert flights.filter(pl.col("flight_id") == "2013-01-01-UA-1545-EWR").height == 1


def test_local_times_are_new_york_times(flights: pl.DataFrame) -> None:
    local = flights["scheduled_at"].dt.convert_time_zone("America/New_York").dt
    assert (local.date().cast(pl.String) == flights["local_date"]).all()
    assert (local.hour().cast(pl.Int64) * 60 + local.minute() == flights["sched_minute"]).all()
    winter, summer = (
        flights.filter(pl.col("flight_id") == f"{day}-UA-15-EWR")["scheduled_at"][0]
        for day in ("2013-03-09", "2013-03-11")
    )
    offsets = [at.astimezone(ZoneInfo("America/New_York")).utcoffset() for at in (winter, summer)]
    assert offsets == [timedelta(hours=-5), timedelta(hours=-4)]


def test_arrivals_are_departure_plus_flying_and_a_plausible_taxi(flights: pl.DataFrame) -> None:
    """`air_time` is not used to derive the arrival: an independent witness, 327,346 times."""
    air = _air_time()
    arrived = flights.join(air, on="flight_id", validate="1:1").drop_nulls("arrived_at")
    assert arrived.height == 327_346
    taxi = (arrived["arrived_at"] - arrived["departed_at"]).dt.total_minutes() - arrived["air_time"]
    assert taxi.min() == 5
    assert taxi.max() == 235


def _air_time() -> pl.DataFrame:
    from tidemill.adapters import nycflights13 as module

    raw = module._csv(module._file("flights"))
    day = pl.date("year", "month", "day")
    return raw.select(
        "air_time", flight_id=pl.format("{}-{}-{}-{}", day, "carrier", "flight", "origin")
    )


def test_outcomes_agree_with_each_other(flights: pl.DataFrame) -> None:
    left = flights.filter(pl.col("departed_at").is_not_null())
    delay = (left["departed_at"] - left["scheduled_at"]).dt.total_minutes()
    assert (delay == left["dep_delay"]).all()
    assert flights["cancelled"].sum() == 8_255
    assert flights.filter(pl.col("cancelled") & pl.col("departed_at").is_not_null()).is_empty()
    diverted = pl.col("departed_at").is_not_null() & pl.col("arr_delay").is_null()
    assert flights.filter(diverted).height == 717 + 458


def test_an_outcome_is_unknown_before_it_happened(source: Nycflights13) -> None:
    for day in (3, 10, 17, 30):
        now = datetime(2013, 6, day, 13, 7, tzinfo=UTC)
        known = source.read("flights", "2013-06", now)
        whole = source.read("flights", "2013-06", AFTER)
        schedule = [c for c in whole.columns if c not in OUTCOMES]
        assert known.select(schedule).equals(whole.select(schedule))
        for at, columns in (("departed_at", DEPARTURE), ("arrived_at", ARRIVAL)):
            happened = (whole[at] <= now).fill_null(value=False)
            assert known.filter(~happened).select(columns).null_count().sum_horizontal()[0] == (
                2 * (~happened).sum()
            )
            assert (
                known.filter(happened)
                .select(columns)
                .equals(whole.filter(happened).select(columns))
            )
        decided = whole["scheduled_at"] + timedelta(hours=3) <= now
        assert (known["cancelled"].is_not_null() == decided).all()
        weather = source.read("weather", "2013-06", now)
        assert weather["available_at"].max() == now.replace(minute=0)


DEPARTURE, ARRIVAL = ["departed_at", "dep_delay"], ["arrived_at", "arr_delay"]
OUTCOMES = {*DEPARTURE, *ARRIVAL, "cancelled"}


@pytest.mark.parametrize("table", ["flights", "weather"])
def test_the_digest_changes_exactly_when_the_content_does(source: Nycflights13, table: str) -> None:
    begin, end = bounds("2013-03")
    previous: tuple[str, pl.DataFrame] | None = None
    changes = 0
    for minutes in range(0, 600, 20):
        now = begin + timedelta(days=8, hours=20, minutes=minutes)
        now_known = source.digest(table, "2013-03", now), source.read(table, "2013-03", now)
        if previous:
            same = now_known[1].equals(previous[1])
            assert (now_known[0] == previous[0]) == same
            changes += not same
        previous = now_known
    assert changes > 5
    later = (end + timedelta(days=days) for days in (3, 300))
    assert len({source.digest(table, "2013-03", at) for at in later}) == 1


def test_the_cache_changes_nothing_and_may_be_damaged(
    source: Nycflights13, cache: Path, tmp_path: Path
) -> None:
    parsed = source.read("flights", "2013-02", AFTER)
    assert Nycflights13(cache).read("flights", "2013-02", AFTER).equals(parsed)
    (cached,) = cache.glob("*.parquet")
    (tmp_path / cached.name).write_bytes(cached.read_bytes()[:1000])
    assert Nycflights13(tmp_path).read("flights", "2013-02", AFTER).equals(parsed)
    assert (tmp_path / cached.name).read_bytes() == cached.read_bytes()


PRINT_HASHES = """
import hashlib, sys
from datetime import datetime
from pathlib import Path
from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.steps.formats import to_parquet
source = Nycflights13(Path(sys.argv[1]))
now = datetime.fromisoformat("2013-02-20T12:00+00:00")
for table, period in [("flights", "2013-02"), ("weather", "2013-02"), ("planes", "static")]:
    print(hashlib.sha256(to_parquet(source.read(table, period, now))).hexdigest())
"""


def test_other_processes_write_the_same_bytes(cache: Path) -> None:
    def run(threads: str) -> str:
        env = {"POLARS_MAX_THREADS": threads, "PATH": ""}
        child = [sys.executable, "-c", PRINT_HASHES, str(cache)]
        return subprocess.run(child, capture_output=True, text=True, check=True, env=env).stdout

    assert len(run("1").split()) == 3
    assert run("1") == run("4")


def test_an_unknown_table_or_period_is_named(source: Nycflights13) -> None:
    with pytest.raises(NotFound, match="no table 'flight'"):
        source.read("flight", "2013-01", AFTER)
    with pytest.raises(NotFound, match="'planes' is static"):
        source.read("planes", "2013-01", AFTER)
    assert source.read("flights", "2012-12", AFTER).is_empty()


def test_the_contract_holds_at_any_instant_of_the_year(
    source: Nycflights13, contract: Contract
) -> None:
    """No false alarm whenever one looks: every third day, at changing hours."""
    known = {("wind_speed", "range"), ("wind_gust", "nulls")}
    instant = datetime(2013, 1, 1, 0, tzinfo=UTC)
    while instant < datetime(2014, 1, 1, tzinfo=UTC):
        for table in ("flights", "weather"):
            findings = _findings(source, contract, table, instant)
            assert {(f.column, f.rule) for f in findings} <= known, (instant, findings)
            assert all(f.severity == "warn" for f in findings)
        instant += timedelta(hours=71)


def _findings(
    source: Nycflights13, contract: Contract, table: str, instant: datetime
) -> list[Finding]:
    month = month_of(instant)
    frame, span = source.read(table, month, instant), Span(instant, *bounds(month))
    wanted = contract.tables[table]
    return check_rows(frame.height, wanted, span, None) + check_frame(frame, wanted, span)
