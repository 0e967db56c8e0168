"""The as-of offline store gives what Feast's own `duckdb` store gives, through Feast's own API."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tidemill.adapters.feast import FeastRepository
from tidemill.errors import DataError
from tidemill.settings.features import FeatureSettings

HERE = Path(__file__).parent
FLIGHTS = HERE.parents[1] / "feature_repo"
START = datetime(2013, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
REVISED = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

key = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)

def view(name, hours):
    return FeatureView(
        name=name,
        entities=[key],
        ttl=timedelta(hours=hours),
        schema=[Field(name=f"{name}_number", dtype=Float64),
                Field(name=f"{name}_text", dtype=String)],
        source=FileSource(name=name + "_source", path=f"/nowhere/{name}.parquet",
                          timestamp_field="event_timestamp",
                          created_timestamp_column="created", tags={"revised": "true"}),
    )

lasting, fleeting = view("lasting", 0), view("fleeting", 7)
both = FeatureService(name="both", features=[lasting, fleeting])
"""


def bitemporal(name: str, seed: int, rows: int = 400) -> pl.DataFrame:
    """Events of eight keys, many revised, some before and some long after their own instant."""
    random.seed(seed)
    facts = {
        (f"k{random.randrange(8)}", random.randrange(60), random.randrange(80)) for _ in range(rows)
    }
    return pl.DataFrame(
        {
            "key": [key for key, _, _ in sorted(facts)],
            "event_timestamp": [START + timedelta(hours=at) for _, at, _ in sorted(facts)],
            "created": [START + timedelta(hours=at) for _, _, at in sorted(facts)],
            f"{name}_number": [random.choice([None, random.random()]) for _ in facts],
            f"{name}_text": [f"{name} {random.random()}" for _ in facts],
        },
        schema_overrides={"event_timestamp": INSTANT, "created": INSTANT},
    )


@pytest.fixture(scope="module")
def random_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two revised views, its tables, and entities to ask about."""
    folder = tmp_path_factory.mktemp("revised")
    (folder / "definitions.py").write_text(REVISED)
    for seed, name in enumerate(("lasting", "fleeting")):
        bitemporal(name, seed).write_parquet(folder / f"{name}.parquet")
    random.seed(9)
    asked = [(f"k{random.randrange(10)}", random.randrange(90)) for _ in range(1500)]
    entities = pl.DataFrame(
        {
            "key": [key for key, _ in asked],
            "event_timestamp": [START + timedelta(hours=at) for _, at in asked],
        },
        schema_overrides={"event_timestamp": INSTANT},
    )
    entities.write_parquet(folder / "entities.parquet")
    return folder


@pytest.fixture(scope="module")
def sample(feature_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five thousand real flights, drawn over the whole quarter."""
    path = tmp_path_factory.mktemp("sample") / "entities.parquet"
    pl.read_parquet(feature_tables / "spine.parquet").sample(5000, seed=7).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def duckdb(random_tables: Path, sample: Path, feature_tables: Path) -> dict[str, pl.DataFrame]:
    """What Feast's `duckdb` store answers, by service."""
    jobs = [
        {
            "repo": str(repo),
            "tables": str(tables),
            "entities": str(entities),
            "service": service,
            "out": str(random_tables / f"{service}.out"),
        }
        for repo, tables, entities, service in (
            (random_tables, random_tables, random_tables / "entities.parquet", "both"),
            (FLIGHTS, feature_tables, sample, "flight_delay_v1"),
        )
    ]
    argv = [sys.executable, str(HERE / "duckdb_oracle.py"), json.dumps(jobs)]
    subprocess.run(argv, check=True, capture_output=True)
    return {job["service"]: pl.read_parquet(job["out"]) for job in jobs}


def revised_repository(folder: Path, state: Path) -> FeastRepository:
    return FeastRepository(
        folder,
        FeatureSettings(project="oracle", service="both"),
        registry=f"sqlite:///{state / 'registry.db'}",
        online_path=state / "online.db",
    )


@pytest.mark.slow
def test_random_tables_give_what_feast_gives(
    tmp_path: Path, random_tables: Path, duckdb: dict[str, pl.DataFrame]
) -> None:
    spine = pl.read_parquet(random_tables / "entities.parquet")
    joined = revised_repository(random_tables, tmp_path).join("both", spine, random_tables)
    assert_frame_equal(joined.select(spine.columns), spine)
    features = joined.drop(spine.columns)
    assert_frame_equal(features, duckdb["both"], check_exact=True)
    assert 0 < features["lasting_text"].null_count() < features["fleeting_text"].null_count() < 1500


@pytest.mark.slow
def test_real_rows_give_what_feast_gives(
    repository: FeastRepository,
    sample: Path,
    feature_tables: Path,
    duckdb: dict[str, pl.DataFrame],
) -> None:
    spine = pl.read_parquet(sample)
    joined = repository.join("flight_delay_v1", spine, feature_tables)
    wanted = duckdb["flight_delay_v1"]
    assert_frame_equal(joined.select(wanted.columns), wanted, check_exact=True)
    assert wanted.shape == (5000, 24)


@pytest.mark.slow
def test_real_rows_give_what_a_row_by_row_search_gives(
    repository: FeastRepository, sample: Path, feature_tables: Path
) -> None:
    rows = pl.read_parquet(sample).head(200)
    joined = repository.join("flight_delay_v1", rows, feature_tables)
    checked = 0
    for view in repository.resolve("flight_delay_v1").views:
        table = pl.read_parquet(feature_tables / f"{view.name}.parquet")
        found = joined.select(field.name for field in view.fields).to_dicts()
        wanted = search(rows, table, view.join_keys, view.ttl_seconds)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine == {name: theirs.get(name) for name in mine}
            checked += len(mine)
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
        fresh = bool(newest) and (not ttl or newest[0]["event_timestamp"] >= oldest)
        yield newest[0] if fresh else {}


def test_a_join_that_the_store_does_not_honour_is_refused(
    tmp_path: Path, random_tables: Path
) -> None:
    applied = revised_repository(random_tables, tmp_path)._apply(random_tables)
    with pytest.raises(NotImplementedError, match="does not support end_date, start_date"):
        applied.store.get_historical_features(
            features=applied.store.get_feature_service("both"), start_date=START, end_date=START
        )


def test_a_key_of_another_type_is_an_error(tmp_path: Path, random_tables: Path) -> None:
    spine = pl.read_parquet(random_tables / "entities.parquet").with_columns(key=pl.lit(5))
    with pytest.raises(DataError, match="Feast could not join the features"):
        revised_repository(random_tables, tmp_path).join("both", spine, random_tables)
