"""The online store beside Feast: values as offline and as its SDK, and a fill that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tidemill.adapters.feast import FeastRepository
from tidemill.adapters.online import open_online
from tidemill.adapters.online_store import OnlineStore
from tidemill.settings.features import FeatureSettings, RedisOnline, SqliteOnline

FLIGHTS = Path(__file__).parents[2] / "feature_repo"
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


@pytest.fixture(scope="module")
def quarter(feature_tables: Path) -> list[datetime]:
    """Instants to compare offline and online at: on and off the grid, busy and quiet hours."""
    first = datetime(2013, 3, 1, tzinfo=UTC)
    return [first + timedelta(hours=25 * n, minutes=n) for n in range(28)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_online_equals_offline_and_feasts_sdk(
    kind: str,
    tmp_path: Path,
    feature_tables: Path,
    quarter: list[datetime],
    request: pytest.FixtureRequest,
) -> None:
    online = (
        SqliteOnline()
        if kind == "sqlite"
        else RedisOnline(port=request.getfixturevalue("redis_port"), database=1)
    )
    settings = FeatureSettings(online=online)
    repository = FeastRepository(
        FLIGHTS,
        settings,
        registry=f"sqlite:///{tmp_path / 'registry.db'}",
        online_path=tmp_path / "online.db",
    )
    reader = open_online(settings, tmp_path / "online.db", 5)
    service = repository.resolve("flight_delay_v1")
    keys = sorted({key for view in service.views for key in view.join_keys})
    flights = pl.read_parquet(feature_tables / "spine.parquet").sample(180, seed=3)
    names = [field.name for view in service.views for field in view.fields]
    asked = flights.drop("event_timestamp").join(
        pl.DataFrame({"event_timestamp": pl.Series(quarter, dtype=INSTANT)}), how="cross"
    )
    offline = repository.join("flight_delay_v1", asked, feature_tables)
    cells = filled = 0
    for moment in quarter:
        repository.materialise("flight_delay_v1", feature_tables, moment)
        then = offline.filter(pl.col("event_timestamp") == moment)
        batch = reader.read(service.views, {key: then[key].to_list() for key in keys}, moment)
        for name in names:
            assert batch.columns[name] == then[name].to_list(), (name, moment)
            cells += then.height
            filled += then[name].len() - then[name].null_count()
    assert cells >= 100_000
    assert filled > 0.7 * cells
    compare_with_sdk(repository, feature_tables, reader, then.drop_nulls("tailnum"), quarter[-1])


def compare_with_sdk(
    repository: FeastRepository,
    tables: Path,
    reader: OnlineStore,
    asked: pl.DataFrame,
    moment: datetime,
) -> None:
    """The SDK serves expired values too; where ours are none, they must be expired."""
    applied = repository._apply(tables)
    service = repository.resolve("flight_delay_v1")
    keys = sorted({key for view in service.views for key in view.join_keys})
    theirs = applied.store.get_online_features(
        features=applied.store.get_feature_service("flight_delay_v1"),
        entity_rows=asked.select(keys).to_dicts(),
    ).to_dict()
    immortal = [replace(view, ttl_seconds=0) for view in service.views]
    ours = reader.read(immortal, {key: asked[key].to_list() for key in keys}, moment)
    assert ours.columns == {name: theirs[name] for name in ours.columns}
    assert set(ours.columns) == set(theirs) - set(keys)


FILL = """
import os, signal
from datetime import datetime
from pathlib import Path
from tidemill.adapters import feast_stores
from tidemill.adapters.feast import FeastRepository
from tidemill.settings.features import FeatureSettings
repository = FeastRepository(
    Path("{repo}"), FeatureSettings(),
    registry="sqlite:///{state}/registry.db", online_path=Path("{state}/online.db"),
)
{action}
"""
DIE = """
write = feast_stores.NewestSqliteOnlineStore.online_write_batch
def die(self, config, table, data, progress):
    write(self, config, table, data, progress)
    if table.name == "origin_congestion":
        os.kill(os.getpid(), signal.SIGKILL)
feast_stores.NewestSqliteOnlineStore.online_write_batch = die
repository.materialise("flight_delay_v1", Path("{tables}"), datetime.fromisoformat("{until}"))
"""


@pytest.mark.slow
def test_a_fill_killed_in_the_middle_is_finished_by_the_next(
    tmp_path: Path, feature_tables: Path
) -> None:
    def run(until: datetime) -> int:
        action = DIE.format(tables=feature_tables, until=until.isoformat())
        code = FILL.format(repo=FLIGHTS, state=tmp_path, action=action)
        return subprocess.run([sys.executable, "-c", code], check=False).returncode

    repository = FeastRepository(
        FLIGHTS,
        FeatureSettings(),
        registry=f"sqlite:///{tmp_path / 'registry.db'}",
        online_path=tmp_path / "online.db",
    )
    reader = open_online(FeatureSettings(), tmp_path / "online.db", 5)
    before, after = (datetime(2013, 3, 1, hour, tzinfo=UTC) for hour in (9, 18))
    repository.materialise("flight_delay_v1", feature_tables, before)
    assert run(after) == -signal.SIGKILL
    filled = reader.filled()
    assert filled is not None
    assert filled.as_of == before
    repository.materialise("flight_delay_v1", feature_tables, after)
    service = repository.resolve("flight_delay_v1")
    keys = {"carrier": ["UA"], "origin": ["EWR"], "dest": ["ORD"], "tailnum": ["N14228"]}
    batch = reader.read(service.views, keys | {"local_date": ["2013-03-01"]}, after)
    assert batch.as_of == after
    asked = pl.DataFrame(keys | {"local_date": ["2013-03-01"], "event_timestamp": [after]})
    asked = asked.with_columns(pl.col("event_timestamp").cast(INSTANT))
    offline = repository.join("flight_delay_v1", asked, feature_tables)
    assert batch.columns == {name: offline[name].to_list() for name in batch.columns}
