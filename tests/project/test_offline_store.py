"""The as-of offline store gives what Feast's own `duckdb` store gives, through Feast's own API."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Float64
from polars.testing import assert_frame_equal

from tidemill.adapters.feast import FeastRepository

OURS = "tidemill.adapters.asof.AsofPolarsOfflineStore"
START = datetime(2013, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def store(folder: Path, offline: str, objects: Sequence[object]) -> FeatureStore:
    folder.mkdir(parents=True)
    config = RepoConfig(
        project="oracle",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        offline_store={"type": offline},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    opened = FeatureStore(config=config)
    opened.apply(list(objects))
    return opened


def bitemporal(seed: int, rows: int = 400) -> pl.DataFrame:
    """Events of eight keys, many revised, some before and some long after their own instant."""
    random.seed(seed)
    facts = {
        (
            f"k{random.randrange(8)}",
            START + timedelta(hours=random.randrange(60)),
            START + timedelta(hours=random.randrange(80)),
        )
        for _ in range(rows)
    }
    columns = [list(column) for column in zip(*sorted(facts), strict=True)]
    return pl.DataFrame(
        {"key": columns[0], "event_timestamp": columns[1], "created": columns[2]},
        schema_overrides={"event_timestamp": INSTANT, "created": INSTANT},
    ).with_columns(
        first=pl.Series([random.choice([None, random.random()]) for _ in facts], dtype=pl.Float64),
        second=pl.Series([random.random() for _ in facts], dtype=pl.Float64),
    )


def objects(path: Path, ttl_hours: int) -> list[object]:
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    view = FeatureView(
        name="view",
        entities=[key],
        ttl=timedelta(hours=ttl_hours),
        schema=[Field(name="first", dtype=Float64), Field(name="second", dtype=Float64)],
        source=FileSource(
            name="source",
            path=str(path),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
    )
    return [key, view, FeatureService(name="service", features=[view])]


@pytest.mark.slow
@pytest.mark.parametrize("ttl_hours", [0, 7])
def test_random_tables_give_what_feast_gives(tmp_path: Path, ttl_hours: int) -> None:
    path = tmp_path / "view.parquet"
    bitemporal(seed=ttl_hours).write_parquet(path)
    random.seed(ttl_hours)
    entities = pd.DataFrame(
        {
            "key": [random.choice(["k0", "k1", "k2", "k3", "gone"]) for _ in range(300)],
            "event_timestamp": [
                pd.Timestamp(START + timedelta(hours=random.randrange(90))) for _ in range(300)
            ],
            "row": range(300),
        }
    )
    results = []
    for name in (OURS, "duckdb"):
        opened = store(tmp_path / name, name, objects(path, ttl_hours))
        job = opened.get_historical_features(
            entity_df=entities,
            features=opened.get_feature_service("service"),
            filter_by_created_timestamp=True,
        )
        joined = pl.DataFrame(job.to_arrow()).sort("row")
        results.append(joined.select(pl.col("row").cast(pl.Int64), "key", "first", "second"))
    assert results[0].height == 300
    assert results[0]["second"].null_count() not in (0, 300)
    assert_frame_equal(results[0], results[1], check_exact=True)


@pytest.fixture(scope="session")
def sampled(feature_tables: Path) -> pl.DataFrame:
    """Three thousand real rows, drawn over the whole quarter."""
    return pl.read_parquet(feature_tables / "spine.parquet").sample(3000, seed=7)


@pytest.mark.slow
def test_real_rows_give_what_feast_gives(
    tmp_path: Path, repository: FeastRepository, sampled: pl.DataFrame, feature_tables: Path
) -> None:
    ours = repository.join("flight_delay_v1", sampled, feature_tables)
    service = repository.resolve("flight_delay_v1")
    opened = store(tmp_path / "duckdb", "duckdb", moved_objects(feature_tables))
    keys = sorted({key for view in service.views for key in view.join_keys})
    entities = sampled.with_row_index("row").select("row", *keys, "event_timestamp")
    job = opened.get_historical_features(
        entity_df=entities.to_pandas(),
        features=opened.get_feature_service("flight_delay_v1"),
        filter_by_created_timestamp=True,
    )
    names = [field.name for view in service.views for field in view.fields]
    theirs = pl.DataFrame(job.to_arrow()).sort("row").select(names)
    assert_frame_equal(ours.select(names), theirs, check_exact=True)
    assert ours.select(names).null_count().sum_horizontal().item() < 0.4 * len(names) * 3000


def moved_objects(tables: Path) -> list[object]:
    from tidemill.adapters.feast_definitions import Definitions

    repo = Path(__file__).parents[2] / "feature_repo"
    return list(Definitions(repo, "oracle", tables).objects)


@pytest.mark.slow
def test_real_rows_give_what_a_row_by_row_search_gives(
    repository: FeastRepository, sampled: pl.DataFrame, feature_tables: Path
) -> None:
    rows = sampled.head(200)
    joined = repository.join("flight_delay_v1", rows, feature_tables)
    checked = 0
    for view in repository.resolve("flight_delay_v1").views:
        table = pl.read_parquet(feature_tables / f"{view.name}.parquet")
        for wanted, found in zip(
            search(rows, table, view.join_keys, view.ttl_seconds),
            joined.select(field.name for field in view.fields).iter_rows(named=True),
            strict=True,
        ):
            assert found == {name: wanted.get(name) for name in found}
            checked += len(found)
    assert checked == 200 * 24


def search(
    rows: pl.DataFrame, table: pl.DataFrame, keys: Sequence[str], ttl: int
) -> Iterator[dict[str, object]]:
    for row in rows.iter_rows(named=True):
        mine = table.filter(
            pl.col("event_timestamp") <= row["event_timestamp"],
            *(pl.col(key) == row[key] for key in keys),
        ).sort("event_timestamp")
        newest = mine.tail(1).to_dicts()
        oldest = row["event_timestamp"] - timedelta(seconds=ttl)
        if newest and (not ttl or newest[0]["event_timestamp"] >= oldest):
            yield newest[0]
        else:
            yield {}


def test_arguments_that_are_not_honoured_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "view.parquet"
    bitemporal(seed=1).write_parquet(path)
    opened = store(tmp_path / "ours", OURS, objects(path, 0))
    with pytest.raises(NotImplementedError, match="does not support"):
        opened.get_historical_features(
            features=opened.get_feature_service("service"), start_date=START, end_date=START
        )
