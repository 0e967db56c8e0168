"""Entities, views and services of the reference project, for `feast apply` and for tidemill.

A view reads `<view>.parquet`, which `transforms.py` computes. A source that is revised after its
event timestamp carries the tag `revised: "true"` and must name its created column; none of these
is: each row says what was knowable at its timestamp, and that never changes.
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

TABLES = Path(__file__).resolve().parents[1] / "data" / "features"
"""Where `dvc repro` leaves the tables; tidemill reads the same names from a run's own folder."""


def source(view: str) -> FileSource:
    """Name the Parquet file of a view."""
    return FileSource(
        name=f"{view}_source",
        path=str(TABLES / f"{view}.parquet"),
        timestamp_field="event_timestamp",
    )


carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING)
tailnum = Entity(name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING)
local_date = Entity(name="local_date", join_keys=["local_date"], value_type=ValueType.STRING)

carrier_delay = FeatureView(
    name="carrier_delay",
    description="How late a carrier's flights arrived, over the last day and week.",
    entities=[carrier],
    ttl=timedelta(days=2),
    schema=[
        Field(name="carrier_late_rate_1d", dtype=Float64),
        Field(name="carrier_late_rate_7d", dtype=Float64),
        Field(name="carrier_mean_delay_1d", dtype=Float64),
    ],
    source=source("carrier_delay"),
)

route_stats = FeatureView(
    name="route_stats",
    description="How late a route's flights arrived over the last four weeks.",
    entities=[origin, dest],
    ttl=timedelta(days=3),
    schema=[
        Field(name="route_late_rate_28d", dtype=Float64),
        Field(name="route_mean_delay_28d", dtype=Float64),
        Field(name="route_flights_28d", dtype=Float64),
    ],
    source=source("route_stats"),
)

origin_congestion = FeatureView(
    name="origin_congestion",
    description="Recent departures and cancellations of an airport.",
    entities=[origin],
    ttl=timedelta(hours=12),
    schema=[
        Field(name="origin_dep_delay_3h", dtype=Float64),
        Field(name="origin_late_rate_3h", dtype=Float64),
        Field(name="origin_cancelled_rate_6h", dtype=Float64),
        Field(name="origin_departures_3h", dtype=Float64),
    ],
    source=source("origin_congestion"),
)

origin_weather = FeatureView(
    name="origin_weather",
    description="The last weather observation that was available.",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=[
        Field(name="temp", dtype=Float64),
        Field(name="dewp", dtype=Float64),
        Field(name="humid", dtype=Float64),
        Field(name="wind_dir", dtype=Float64),
        Field(name="wind_speed", dtype=Float64),
        Field(name="wind_gust", dtype=Float64),
        Field(name="precip", dtype=Float64),
        Field(name="pressure", dtype=Float64),
        Field(name="visib", dtype=Float64),
    ],
    source=source("origin_weather"),
)

plane = FeatureView(
    name="plane",
    description="Age and size of the aircraft.",
    entities=[tailnum],
    ttl=timedelta(0),
    schema=[
        Field(name="plane_year", dtype=Int64),
        Field(name="seats", dtype=Int64),
        Field(name="engines", dtype=Int64),
    ],
    source=source("plane"),
)

calendar = FeatureView(
    name="calendar",
    description="What the day of departure is known for.",
    entities=[local_date],
    ttl=timedelta(0),
    schema=[
        Field(name="day_of_week", dtype=Int64),
        Field(name="days_to_holiday", dtype=Int64),
    ],
    source=source("calendar"),
)

flight_delay_v1 = FeatureService(
    name="flight_delay_v1",
    description="What the flight-delay model reads.",
    features=[
        carrier_delay,
        route_stats,
        origin_congestion,
        origin_weather,
        plane,
        calendar,
    ],
)
