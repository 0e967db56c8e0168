"""Features: the as-of store against a hand-written join and Feast's own, reader against SDK.

CPU seconds, not wall time: they hold on a shared machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from feast import FeatureStore, RepoConfig

from tidemill.adapters.feast import FeastRepository, to_entities
from tidemill.adapters.feast_definitions import Definitions
from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.adapters.online import OnlineStore, open_online
from tidemill.adapters.project_code import load
from tidemill.bundle import FeatureService
from tidemill.settings.features import FeatureSettings, RedisOnline
from tidemill.steps.featurize import featurize
from tidemill.steps.materialize import Follower

REPO = Path(__file__).parents[1] / "feature_repo"
SERVICE = "flight_delay_v1"
YEAR_ENDS = datetime(2014, 1, 2, tzinfo=UTC)
NOW = datetime(2013, 6, 15, 18, tzinfo=UTC)


def main() -> None:
    """Print joins, online reads and a follower's day."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as state:
        year = Year.build(Path(folder))
        repository, reader = opened(FeatureSettings(), Path(state))
        joins(year, repository.resolve(SERVICE))
        repository.materialise(SERVICE, year.tables, NOW)
        reads("SQLite", year, repository, reader)
        redis_reads(year, Path(state))
        ticks(year, Path(state))


@dataclass(frozen=True)
class Year:
    """The whole reference data, and its features."""

    source: Nycflights13
    transforms: Any
    tables: Path
    spine: pl.DataFrame

    @classmethod
    def build(cls, folder: Path) -> Year:
        """Compute the feature tables of 2013."""
        source = Nycflights13(folder / "cache")
        months = [f"2013-{month:02}" for month in range(1, 13)] + ["2014-01"]
        for table, cadence in source.tables().items():
            (folder / "raw" / table).mkdir(parents=True)
            for period in ["static"] if cadence == "static" else months:
                frame = source.read(table, period, YEAR_ENDS)
                frame.write_parquet(folder / "raw" / table / f"{period}.parquet")
        transforms: Any = load(REPO / "transforms.py")
        tables = folder / "features"
        with cpu() as spent:
            featurize(folder / "raw", tables, transforms, FeatureSettings(), YEAR_ENDS)
        spine = pl.read_parquet(tables / "spine.parquet")
        print(f"feature tables and spine of {spine.height:,} flights: {spent[0]:.2f} CPU s")
        return cls(source, transforms, tables, spine)


def joins(year: Year, service: FeatureService) -> None:
    """Compare CPU seconds of the as-of join over the whole year."""
    keys = sorted({key for view in service.views for key in view.join_keys})
    entities = to_entities(year.spine, keys)
    floor, wanted = best(lambda: by_hand(year, service))
    ours, found = best(lambda: through_feast(year, entities, OURS))
    theirs, answer = best(lambda: through_feast(year, entities, "duckdb"), times=1)
    names = [field.name for view in service.views for field in view.fields]
    row = "event_timestamp", *keys
    assert found.select(names).equals(wanted.select(names))
    assert answer.sort(*row).select(names).equals(found.sort(*row).select(names))
    print(f"join {year.spine.height:,} rows with six views, equal answers, CPU s:")
    print(f"  by hand, polars join_asof   {floor:6.2f}")
    print(f"  as-of store, through Feast  {ours:6.2f}   {ours / floor:5.2f}x by hand")
    print(f"  Feast's duckdb store        {theirs:6.2f}   {theirs / ours:5.1f}x the as-of store")


OURS = "tidemill.adapters.asof.AsofPolarsOfflineStore"


def by_hand(year: Year, service: FeatureService) -> pl.DataFrame:
    """Join without Feast: what a person would write for these tables."""
    rows = year.spine.lazy().with_row_index("row").sort("event_timestamp")
    for view in service.views:
        names = [field.name for field in view.fields]
        table = pl.scan_parquet(year.tables / f"{view.name}.parquet").sort("event_timestamp")
        rows = rows.join_asof(
            table.select(*view.join_keys, pl.col("event_timestamp").alias("known"), *names),
            left_on="event_timestamp",
            right_on="known",
            by=list(view.join_keys),
            check_sortedness=False,
            coalesce=False,
        )
        if view.ttl_seconds:
            fresh = pl.col("known") + timedelta(seconds=view.ttl_seconds)
            live = fresh >= pl.col("event_timestamp")
            rows = rows.with_columns(pl.when(live).then(pl.col(name)) for name in names)
        rows = rows.drop("known")
    return rows.sort("row").collect()


def through_feast(year: Year, entities: Any, offline: str) -> pl.DataFrame:
    """Join with `get_historical_features`; set-up is not counted."""
    with tempfile.TemporaryDirectory() as folder, uncounted():
        config = RepoConfig(
            project="bench",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
            offline_store={"type": offline},
            online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply(Definitions(REPO, "bench", year.tables).objects)
        service = store.get_feature_service(SERVICE)
        with counted():
            job = store.get_historical_features(
                entity_df=entities, features=service, filter_by_created_timestamp=True
            )
            return pl.DataFrame(job.to_arrow())


def opened(settings: FeatureSettings, state: Path) -> tuple[FeastRepository, OnlineStore]:
    """Open a repository and its reader in a folder."""
    path = state / "online.db"
    registry = f"sqlite:///{state / 'registry.db'}"
    repository = FeastRepository(REPO, settings, registry=registry, online_path=path)
    return repository, open_online(settings, path, 5)


def reads(name: str, year: Year, repository: FeastRepository, reader: OnlineStore) -> None:
    """Compare the latency of a lookup of 1 and 32 flights."""
    service = repository.resolve(SERVICE)
    applied = repository._apply(year.tables)
    sdk, wanted = applied.store, applied.store.get_feature_service(SERVICE)
    keys = sorted({key for view in service.views for key in view.join_keys})
    flights = year.spine.drop_nulls("tailnum").sample(32, seed=1).select(keys)
    for rows in (1, 32):
        asked = flights.head(rows)
        columns = {key: asked[key].to_list() for key in keys}
        entities = asked.to_dicts()
        ours = latency(lambda columns=columns: reader.read(service.views, columns, NOW))
        theirs = latency(lambda entities=entities: sdk.get_online_features(wanted, entities), 100)
        print(
            f"lookup of {rows:2} flights, {name}: {ours[0]:.2f} ms (p99 {ours[1]:.2f}), "
            f"SDK {theirs[0]:.2f} ms (p99 {theirs[1]:.2f}): {theirs[0] / ours[0]:.1f}x"
        )


def redis_reads(year: Year, state: Path) -> None:
    """Measure lookups on a Redis server of our own."""
    from tests import servers

    with servers.redis(state / "redis") as port:
        settings = FeatureSettings(online=RedisOnline(port=port))
        repository, reader = opened(settings, state / "redis")
        repository.materialise(SERVICE, year.tables, NOW)
        reads("Redis", year, repository, reader)


def ticks(year: Year, state: Path) -> None:
    """Follow the clock for a day of eight steps."""
    settings = FeatureSettings()
    repository, _ = opened(settings, state / "follower")
    follower = Follower(
        year.source, year.transforms, repository, settings, "2013-01", state / "recent"
    )
    follower.tick(NOW)
    with cpu() as spent:
        for step in range(1, 9):
            follower.tick(NOW + timedelta(minutes=step * settings.step_minutes))
    print(f"follower: {spent[0] / 8:.3f} CPU s per tick")


_skipped = [0.0]


@contextmanager
def cpu() -> Iterator[list[float]]:
    """Measure the CPU seconds of a block, less what `uncounted` took in it."""
    spent, skipped, begin = [0.0], _skipped[0], time.process_time()
    yield spent
    spent[0] = time.process_time() - begin - (_skipped[0] - skipped)


@contextmanager
def uncounted() -> Iterator[None]:
    """Leave a block's CPU seconds out of `cpu`."""
    begin = time.process_time()
    yield
    _skipped[0] += time.process_time() - begin


@contextmanager
def counted() -> Iterator[None]:
    """Take a block within `uncounted` back in."""
    begin = time.process_time()
    yield
    _skipped[0] -= time.process_time() - begin


def best(run: Callable[[], pl.DataFrame], times: int = 3) -> tuple[float, pl.DataFrame]:
    """Return the least CPU seconds of several runs, and the answer."""
    seconds = []
    for _ in range(times):
        with cpu() as spent:
            answer = run()
        seconds.append(spent[0])
    return min(seconds), answer


def latency(run: Callable[[], object], times: int = 500) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        seconds.append((time.perf_counter() - begin) * 1000)
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
