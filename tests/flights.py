"""A small real training set: departures of early 2013 with the weather known an hour before."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.settings.model import ModelInput, TrainingSettings

AS_OF = datetime(2013, 2, 8, tzinfo=UTC)
MATURITY_HOURS = 24.0
WEATHER = ["temp", "wind_gust", "precip", "visib"]


def settings(**changes: object) -> TrainingSettings:
    """Return settings for a training of a few seconds."""
    inputs = [
        ModelInput(name="sched_minute", origin="request", encoding="cyclic", period=1440),
        ModelInput(name="distance", origin="request", encoding="log"),
        ModelInput(name="carrier", origin="request", encoding="category"),
        ModelInput(name="origin", origin="request", encoding="category"),
        ModelInput(name="dest", origin="request", encoding="category"),
        ModelInput(name="flight_year", origin="request", encoding="difference", minus="plane_year"),
        *(ModelInput(name=name) for name in WEATHER),
    ]
    fields = {"inputs": inputs, "validation_days": 5, "test_days": 7, "epochs": 3, "threads": 1}
    return TrainingSettings.model_validate({**fields, "folds": 2, **changes})


@cache
def training_set() -> pl.DataFrame:
    """Return the rows whose label was known on 8 February 2013."""
    with TemporaryDirectory() as folder:
        source = Nycflights13(Path(folder))
        tables = {
            name: pl.concat([source.read(name, month, AS_OF) for month in ("2013-01", "2013-02")])
            for name in ("flights", "weather")
        }
        planes = source.read("planes", "static", AS_OF)
    flights = (
        tables["flights"]
        .drop_nulls("arr_delay")
        .with_columns(
            (pl.col("arr_delay") > 15).cast(pl.Int8).alias("late"),
            (pl.col("scheduled_at") - pl.duration(hours=1)).alias("event_timestamp"),
            pl.col("arrived_at").alias("label_at"),
        )
        .sort("event_timestamp", "flight_id")
    )
    weather = tables["weather"].sort("available_at")
    return flights.join_asof(
        weather.select("origin", "available_at", *WEATHER),
        left_on="event_timestamp",
        right_on="available_at",
        by="origin",
        check_sortedness=False,
    ).join(planes.select("tailnum", "plane_year"), on="tailnum", how="left", maintain_order="left")
