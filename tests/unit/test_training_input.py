"""A training set that breaks its promises is refused by name, and nothing is half written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from tests import flights

from tidemill.errors import ConfigError, DataError
from tidemill.settings.model import ModelInput
from tidemill.steps.inputs import raw_columns
from tidemill.steps.periods import read_training_set, split_by_time
from tidemill.steps.training_data import read_training_data

Change = Callable[[pl.DataFrame], pl.DataFrame]

BROKEN: dict[str, tuple[Change, str]] = {
    "missing column": (lambda f: f.drop("wind_gust", "dest"), r"columns dest, wind_gust missing"),
    "missing label": (lambda f: f.drop("late"), "column late missing"),
    "all null": (
        lambda f: f.with_columns(pl.lit(None, pl.Float64).alias("temp")),
        "'temp' has no value at all",
    ),
    "all NaN": (
        lambda f: f.with_columns(pl.lit(float("nan")).alias("temp")),
        "'temp' has no finite value at all",
    ),
    "text for numbers": (
        lambda f: f.with_columns(pl.col("temp").cast(pl.String)),
        "'temp' is String, the model needs numbers",
    ),
    "numbers for text": (
        lambda f: f.with_columns(pl.lit(7).alias("carrier")),
        "'carrier' is Int32, the model needs text",
    ),
    "no rows": (lambda f: f.clear(), "has no rows"),
    "one class": (lambda f: f.with_columns(pl.lit(0, pl.Int8).alias("late")), "must hold 0 and 1"),
    "null label": (
        lambda f: f.with_columns(pl.when(pl.col("month") == 1).then("late").alias("late")),
        "label 'late' is missing in",
    ),
    "NaN label": (
        lambda f: f.with_columns(pl.lit(float("nan")).alias("late")),
        "label 'late' is missing in",
    ),
    "three classes": (
        lambda f: f.with_columns((pl.col("month") + pl.col("late")).alias("late")),
        "must hold 0 and 1, found",
    ),
    "text label": (
        lambda f: f.with_columns(pl.lit("yes").alias("late")),
        "label 'late' is String",
    ),
    "no time": (
        lambda f: f.with_columns(pl.col("event_timestamp").cast(pl.String)),
        "'event_timestamp' is String",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_training_sets(change: Change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    change(flights.training_set()).write_parquet(path)
    with pytest.raises(DataError, match=message) as caught:
        read_training_set(path, flights.settings())
    assert str(path) in str(caught.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    frame = flights.training_set().with_columns(
        pl.lit(None, pl.Float64).alias("temp"), pl.lit(2).alias("late"), pl.lit(1).alias("dest")
    )
    frame.write_parquet(path)
    with pytest.raises(DataError) as caught:
        read_training_set(path, flights.settings())
    assert all(name in str(caught.value) for name in ("temp", "late", "dest"))


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", None])
def test_a_truncated_or_absent_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_training_set(path, flights.settings())


def test_periods_are_whole_days_that_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    flights.training_set().write_parquet(path)
    settings = flights.settings()
    frame = read_training_set(path, settings)
    split = split_by_time(frame, path, settings, flights.AS_OF - timedelta(hours=24))
    parts = [split.train_rows(frame), split.validation_rows(frame), split.test_rows(frame)]
    days = [part["event_timestamp"].dt.date() for part in parts]
    assert [d.n_unique() for d in days[1:]] == [5, 7]
    for earlier, later in pairwise(days):
        assert earlier.max() + timedelta(days=1) == later.min()
    assert str(days[-1].max()) == "2013-02-06", "the 7th is not mature on the 8th"


def test_too_few_days_name_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    frame = flights.training_set().filter(
        pl.col("event_timestamp") < pl.datetime(2013, 1, 6, time_zone="UTC")
    )
    frame.write_parquet(path)
    with pytest.raises(DataError, match=r"training\.test_days=7"):
        read_training_data(path, flights.settings(), as_of=flights.AS_OF, maturity_hours=24)


def test_a_column_declared_in_two_ways_is_refused() -> None:
    twice = [ModelInput(name="x"), ModelInput(name="x", encoding="category")]
    with pytest.raises(ConfigError, match="declares 'x' twice"):
        raw_columns(twice)


def test_raw_columns_hold_what_a_difference_subtracts() -> None:
    columns = {c.name: (c.datatype, c.origin) for c in raw_columns(flights.settings().inputs)}
    assert columns["flight_year"] == ("FP32", "request")
    assert columns["plane_year"] == ("FP32", "feature")
    assert columns["dest"] == ("BYTES", "request")
