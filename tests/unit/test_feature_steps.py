"""Feature tables, training sets and the follower, against fakes of the ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tidemill.bundle import FeatureField, FeatureService, FeatureView
from tidemill.errors import DataError, Refused, Unavailable
from tidemill.settings.features import FeatureSettings
from tidemill.steps.featurize import featurize
from tidemill.steps.materialize import Follower, follow
from tidemill.steps.repeat import due
from tidemill.steps.training_set import pinned_service, training_set
from tidemill.testing.data import MemorySource
from tidemill.testing.features import MemoryFeatures

NOON = datetime(2013, 1, 31, 12, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
SERVICE = FeatureService(
    "visits",
    "shop",
    "sha256:abc",
    (FeatureView("footfall", ("shop",), (FeatureField("visits", "Int64"),), 86_400),),
)
SETTINGS = FeatureSettings(service="visits", step_minutes=60, lookback_days=7)


def hours(*numbers: float) -> pl.Series:
    return pl.Series([NOON + timedelta(hours=n) for n in numbers], dtype=INSTANT)


def events(*numbers: float) -> pl.DataFrame:
    shops = pl.Series(["a"] * len(numbers), dtype=pl.String)
    return pl.DataFrame({"shop": shops, "at": hours(*numbers)})


class Visits:
    """A project's transforms: visits per shop so far, every hour of the last day."""

    def tables(
        self,
        raw: Mapping[str, pl.LazyFrame],
        *,
        step_minutes: int,
        since: datetime | None,
        until: datetime | None,
    ) -> dict[str, pl.DataFrame]:
        assert until is not None
        visited = raw["events"].select("shop", "at").collect()
        grid = pl.datetime_range(
            since or until - timedelta(days=1), until, f"{step_minutes}m", eager=True
        )
        rows = [("a", at, visited.filter(pl.col("at") <= at).height) for at in grid]
        schema = {"shop": pl.String, "event_timestamp": INSTANT, "visits": pl.Int64}
        return {"footfall": pl.DataFrame(rows, schema=schema, orient="row")}

    def spine(self, raw: Mapping[str, pl.LazyFrame], *, horizon_minutes: int) -> pl.DataFrame:
        at = pl.col("at") - timedelta(minutes=horizon_minutes)
        return raw["events"].select("shop", event_timestamp=at, label_at="at", late=1).collect()


class Spoiled(Visits):
    """The same, with one mistake in its table."""

    def __init__(self, mistake: pl.Expr) -> None:
        self.mistake = mistake

    def tables(self, raw: Mapping[str, pl.LazyFrame], **options: Any) -> dict[str, pl.DataFrame]:
        return {"footfall": super().tables(raw, **options)["footfall"].with_columns(self.mistake)}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "events").mkdir(parents=True)
    events(-5, -3, -1).write_parquet(tmp_path / "raw" / "events" / "2013-01.parquet")
    return tmp_path / "raw"


def test_tables_and_spine_are_written(raw: Path, tmp_path: Path) -> None:
    rows = featurize(raw, tmp_path / "out", Visits(), SETTINGS, NOON)
    assert rows == {"footfall": 25, "spine": 3}
    table = pl.read_parquet(tmp_path / "out" / "footfall.parquet")
    assert table.row(-1) == ("a", NOON, 3)


def test_equal_input_gives_equal_bytes(raw: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        featurize(raw, tmp_path / name, Visits(), SETTINGS, NOON)
    first, second = (tmp_path / name / "footfall.parquet" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_no_raw_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no raw tables"):
        featurize(tmp_path / "nothing", tmp_path / "out", Visits(), SETTINGS, NOON)


def test_an_absent_raw_table_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "events").rename(raw / "visits")
    with pytest.raises(DataError, match="need the raw table 'events'"):
        featurize(raw, tmp_path / "out", Visits(), SETTINGS, NOON)
    assert not (tmp_path / "out").exists()


def test_a_missing_raw_column_is_named(raw: Path, tmp_path: Path) -> None:
    events(-1).drop("at").write_parquet(raw / "events" / "2013-01.parquet")
    with pytest.raises(DataError, match=r"features cannot be computed: .*at"):
        featurize(raw, tmp_path / "out", Visits(), SETTINGS, NOON)


def test_a_truncated_raw_file_is_an_error(raw: Path, tmp_path: Path) -> None:
    path = raw / "events" / "2013-01.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{path} cannot be read.*PAR1"):
        featurize(raw, tmp_path / "out", Visits(), SETTINGS, NOON)


def test_an_empty_partition_is_no_error(raw: Path, tmp_path: Path) -> None:
    events().write_parquet(raw / "events" / "2012-12.parquet")
    assert featurize(raw, tmp_path / "out", Visits(), SETTINGS, NOON)["spine"] == 3


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (pl.col("event_timestamp").dt.offset_by("1h"), "1 rows are stamped after"),
        (pl.col("event_timestamp").cast(pl.Datetime("ns", "UTC")), "must be Datetime"),
        (pl.lit(None, INSTANT).alias("event_timestamp"), "25 rows have no event_timestamp"),
    ],
)
def test_a_table_that_breaks_its_promise_is_refused(
    raw: Path, tmp_path: Path, mistake: pl.Expr, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        featurize(raw, tmp_path / "out", Spoiled(mistake), SETTINGS, NOON)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A footfall table, and a spine of six rows with labels at hours 1 to 5, the last unknown."""
    folder = tmp_path / "features"
    folder.mkdir()
    pl.DataFrame(
        {"shop": ["a", "a"], "event_timestamp": hours(-10, 2), "visits": [1, 2]}
    ).write_parquet(folder / "footfall.parquet")
    pl.DataFrame(
        {
            "shop": ["a"] * 6,
            "event_timestamp": hours(0, 1, 2, 3, 4, 5),
            "late": pl.Series([0, 1, 0, 1, 0, None], dtype=pl.Int8),
            "label_at": [*hours(1, 2, 3, 4, 5), None],
        }
    ).write_parquet(folder / "spine.parquet")
    return folder


def build(features: Path, as_of: float, start: float | None = None) -> pl.DataFrame:
    out = features / "set" / "training_set.parquet"
    built = training_set(
        features,
        out,
        MemoryFeatures(SERVICE),
        service="visits",
        label="late",
        as_of=NOON + timedelta(hours=as_of),
        start=None if start is None else NOON + timedelta(hours=start),
    )
    frame = pl.read_parquet(out)
    assert (built.rows, built.events) == (frame.height, frame["late"].sum())
    assert built.feature_digest == "sha256:abc"
    return frame


def test_rows_with_a_known_label_are_joined(features: Path) -> None:
    assert build(features, as_of=4)["visits"].to_list() == [1, 1, 2, 2]


def test_the_window_has_a_start(features: Path) -> None:
    assert build(features, as_of=9, start=3)["late"].to_list() == [1, 0]


def test_the_set_says_which_service_it_holds(features: Path) -> None:
    build(features, as_of=9)
    assert pinned_service(features / "set" / "training_set.parquet") == SERVICE


def test_another_file_pins_no_service(features: Path) -> None:
    with pytest.raises(DataError, match="does not say which feature service"):
        pinned_service(features / "spine.parquet")


def test_no_label_yet_is_an_error_and_writes_nothing(features: Path) -> None:
    with pytest.raises(DataError, match="has a label known at"):
        build(features, as_of=0.5)
    assert not (features / "set").exists()


def test_a_spine_without_the_label_is_an_error(features: Path) -> None:
    path = features / "spine.parquet"
    pl.read_parquet(path).drop("late").write_parquet(path)
    with pytest.raises(DataError, match=r"spine.parquet cannot be read: .*late"):
        build(features, as_of=9)


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    source = MemorySource()
    for month, at in (("2012-12", -1000.0), ("2013-01", -1000.0), ("2013-02", 13.0)):
        source.deliver("events", month, NOON + timedelta(hours=at), events())
    source.deliver("events", "2013-01", NOON, events(-2, -1))
    source.deliver("events", "2013-01", NOON + timedelta(hours=2), events(-2, -1, 0.5))
    return Follower(
        source=source,
        transforms=Visits(),
        features=MemoryFeatures(SERVICE),
        settings=SETTINGS,
        start="2013-01",
        tables=tmp_path / "recent",
    )


def test_a_tick_rebuilds_what_can_still_be_served(follower: Follower) -> None:
    follower.tick(NOON)
    table = pl.read_parquet(follower.tables / "footfall.parquet")
    assert (table["event_timestamp"].min(), table["event_timestamp"].max()) == (
        NOON - timedelta(days=1),
        NOON,
    )
    assert table["visits"].to_list()[-3:] == [1, 2, 2]


def test_a_tick_sees_what_arrived_since(follower: Follower) -> None:
    follower.tick(NOON)
    follower.tick(NOON + timedelta(hours=2))
    assert pl.read_parquet(follower.tables / "footfall.parquet")["visits"].to_list()[-1] == 3


def test_ticks_never_go_back(follower: Follower) -> None:
    follower.tick(NOON + timedelta(hours=2))
    with pytest.raises(Refused):
        follower.tick(NOON)


def test_the_grid_of_ticks() -> None:
    hour = timedelta(hours=1)
    assert due(NOON + timedelta(minutes=59, seconds=59), hour) == NOON
    assert due(NOON + hour, hour) == NOON + hour
    assert due(NOON, 3 * hour) == NOON


class Played:
    """A clock that stands at one instant per look; stops the follower after the last."""

    poll_seconds = 0.01

    def __init__(self, *numbers: float) -> None:
        self.left = [NOON + timedelta(hours=n) for n in numbers]

    def now(self) -> datetime:
        if not self.left:
            raise KeyboardInterrupt
        return self.left.pop(0)


def filled(follower: Follower, *numbers: float) -> list[float]:
    naps: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        follow(follower, Played(*numbers), sleep=naps.append)
    assert len(naps) == len(numbers)
    source = follower.features
    assert isinstance(source, MemoryFeatures)
    return [(one.as_of - NOON) / timedelta(hours=1) for one in source.filled]


def test_the_follower_ticks_once_per_step_and_skips_steps_that_are_over(
    follower: Follower,
) -> None:
    assert filled(follower, 0.2, 0.4, 0.9, 1, 1.5, 6.1, 6.2) == [0.2, 1, 6.1]


def test_the_follower_tries_again_what_may_succeed_later(follower: Follower) -> None:
    assert isinstance(follower.features, MemoryFeatures)
    follower.features.failure = Unavailable("down")
    assert filled(follower, 0, 0.1, 0.2) == [0.1]


def test_the_follower_stops_at_what_cannot_succeed(follower: Follower) -> None:
    assert isinstance(follower.features, MemoryFeatures)
    follower.features.failure = DataError("a column is missing")
    with pytest.raises(DataError):
        follow(follower, Played(0, 1), sleep=lambda _: None)
