"""The online store: what is written, what is read, on SQLite and on a real Redis server."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from sqlalchemy import create_engine, text
from tests import servers

from tidemill.adapters import online_sqlite
from tidemill.adapters.feast import FeastRepository
from tidemill.adapters.online import open_online
from tidemill.adapters.online_redis import connect
from tidemill.adapters.online_store import OnlineStore
from tidemill.bundle import FeatureField, FeatureView
from tidemill.errors import Conflict, IntegrityError, Mismatch, Refused, Unavailable
from tidemill.ports.features import Value
from tidemill.settings.features import FeatureSettings, RedisOnline, SqliteOnline

FLIGHTS = Path(__file__).parents[2] / "feature_repo"
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
SMALL = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)
sales = FeatureView(
    name="sales", entities=[shop, till], ttl=timedelta(hours=6),
    schema=[Field(name="total", dtype=Float64), Field(name="count", dtype=Int64),
            Field(name="mood", dtype=String)],
    source=FileSource(name="sales_source", path="sales.parquet", timestamp_field="at",
                      created_timestamp_column="written", tags={"revised": "true"}),
)
shops = FeatureService(name="shops", features=[sales])
"""


class Shops:
    """A small repository with one revised view of two join keys, and its online store."""

    def __init__(
        self, folder: Path, online: SqliteOnline | RedisOnline, registry: str = ""
    ) -> None:
        self.folder = folder
        self.registry = registry or f"sqlite:///{folder / 'registry.db'}"
        self.settings = FeatureSettings(
            project=f"shops{uuid.uuid4().hex[:8]}", service="shops", online=online
        )
        (folder / "definitions.py").write_text(SMALL)
        self.rows: list[tuple[str, int, datetime, datetime, float | None, int | None, str]] = []

    def repository(self) -> FeastRepository:
        return FeastRepository(
            self.folder,
            self.settings,
            registry=self.registry,
            online_path=self.folder / "online.db",
        )

    @property
    def online(self) -> OnlineStore:
        return open_online(self.settings, self.folder / "online.db", 5)

    @property
    def view(self) -> FeatureView:
        return self.repository().resolve("shops").views[0]

    def sold(self, total: float | None, at: float, written: float | None = None) -> None:
        """Add a row of shop a, till 1; hours relative to noon."""
        made = at if written is None else written
        stamps = [NOON + timedelta(hours=hours) for hours in (at, made)]
        self.rows.append(("a", 1, stamps[0], stamps[1], total, -3, "fine"))

    def fill(self, hours: float) -> None:
        schema = {
            "shop": pl.String,
            "till": pl.Int64,
            "at": INSTANT,
            "written": INSTANT,
            "total": pl.Float64,
            "count": pl.Int64,
            "mood": pl.String,
        }
        table = pl.DataFrame(self.rows, schema=schema, orient="row")
        table.write_parquet(self.folder / "sales.parquet")
        repository = self.repository()
        repository.materialise("shops", self.folder, NOON + timedelta(hours=hours))
        store = repository._apply(self.folder).store
        store.registry.write_engine.dispose()  # Feast leaves its connections to PostgreSQL open
        store.registry.read_engine.dispose()

    def lose(self) -> None:
        """Lose all that the store holds, as a server does that restarts without a disk."""
        if isinstance(self.settings.online, RedisOnline):
            connect(self.settings.online, 5).flushdb()
        else:
            for file in self.folder.glob("online.db*"):
                file.unlink()

    def total(self, hours: float) -> Value:
        moment = NOON + timedelta(hours=hours)
        return self.online.read([self.view], {"shop": ["a"], "till": [1]}, moment).columns["total"][
            0
        ]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def online(request: pytest.FixtureRequest) -> Iterator[SqliteOnline | RedisOnline]:
    """The settings of either store."""
    if request.param == "sqlite":
        yield SqliteOnline()
    else:
        yield RedisOnline(port=request.getfixturevalue("redis_port"))


@pytest.fixture
def shops(tmp_path: Path, online: SqliteOnline | RedisOnline) -> Shops:
    return Shops(tmp_path, online)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty registry in either database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
    else:
        with servers.database(request.getfixturevalue("postgres_url")) as url:
            yield url


def test_values_null_and_unknown_keys(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    keys: dict[str, list[str | int | None]] = {
        "shop": ["a", None, "a", "a", "gone", "a"],
        "till": [1, 1, None, 2, 1, 1],
    }
    batch = shops.online.read([shops.view], keys, NOON + timedelta(hours=1))
    nothing = [None] * 4
    assert batch.columns == {
        "total": [2.5, *nothing, 2.5],
        "count": [-3, *nothing, -3],
        "mood": ["fine", *nothing, "fine"],
    }
    assert batch.as_of == NOON + timedelta(hours=1)


def views(registry: str) -> set[tuple[str, str]]:
    """Return the projects and names of the views that the registry holds."""
    engine = create_engine(registry)
    with engine.connect() as connection:
        query = text("SELECT project_id, feature_view_name FROM feature_views")
        found = {(project, name) for project, name in connection.execute(query)}
    engine.dispose()
    return found


def test_a_fill_works_with_a_registry_in_either_database(tmp_path: Path, registry: str) -> None:
    shops = Shops(tmp_path, SqliteOnline(), registry)
    shops.sold(2.5, at=0)
    shops.fill(1)
    assert shops.total(1) == 2.5
    shops.sold(3.5, at=0, written=1.5)
    shops.fill(2)
    assert shops.total(2) == 3.5
    assert views(registry) == {(shops.settings.project, "sales")}


def test_no_rows_are_no_error(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    batch = shops.online.read([shops.view], {"shop": [], "till": []}, NOON)
    assert batch.columns == {"total": [], "count": [], "mood": []}


def test_more_keys_than_a_statement_takes(shops: Shops, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two views of different lengths: of the shorter one nothing is left for the last statement."""
    monkeypatch.setattr(online_sqlite, "MAX_KEYS", 4)
    shops.sold(2.5, at=0)
    shops.fill(1)
    other = replace(shops.view, join_keys=("store", "till"))
    other = replace(other, fields=(FeatureField("mood", "BYTES"),))
    keys: dict[str, list[str | int | None]] = {
        "shop": ["b", "c", "d", "e", "a", "f"],
        "store": ["a", "a", "a", "a", "a", "a"],
        "till": [1] * 6,
    }
    batch = shops.online.read([shops.view, other], keys, NOON + timedelta(hours=1))
    assert batch.columns["total"] == [None, None, None, None, 2.5, None]
    assert batch.as_of == NOON + timedelta(hours=1)


def test_the_ttl_is_enforced_at_the_moment_of_the_read(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    assert [shops.total(hours) for hours in (1, 6, 6.001)] == [2.5, 2.5, None]


def test_rows_whose_value_expired_are_told_from_unknown_ones(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    keys: dict[str, list[str | int | None]] = {
        "shop": ["a", "gone", "a", None],
        "till": [1, 1, 1, 1],
    }
    stale = [
        shops.online.read([shops.view], keys, NOON + timedelta(hours=hours)).stale
        for hours in (6, 6.001)
    ]
    assert stale == [{}, {"sales": [True, False, True, False]}]


def test_a_correction_at_the_same_instant_arrives(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    shops.sold(3.5, at=0, written=1.5)
    shops.fill(2)
    assert shops.total(2) == 3.5


def test_a_correction_that_is_not_made_yet_does_not_arrive(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.sold(3.5, at=0, written=1.5)
    shops.fill(1)
    assert shops.total(1) == 2.5


def test_a_late_older_value_never_replaces_a_newer_one(shops: Shops) -> None:
    shops.sold(9.0, at=2)
    shops.fill(2)
    shops.sold(1.0, at=1, written=2.5)
    shops.fill(3)
    assert shops.total(3) == 9.0


def test_a_late_value_of_a_known_window_arrives(shops: Shops) -> None:
    shops.sold(1.0, at=0)
    shops.fill(3)
    shops.sold(2.0, at=1, written=3.5)
    shops.fill(4)
    assert shops.total(4) == 2.0


def test_a_corrected_value_is_not_undone_by_the_older_row_of_its_instant(shops: Shops) -> None:
    shops.sold(3.5, at=0, written=1.5)
    shops.fill(2)
    write(shops, (2.5, 0.5))
    assert shops.total(2) == 3.5
    write(shops, (4.5, 1.5))
    assert shops.total(2) == 4.5, "a row that is written again is written"


def test_of_rows_of_one_key_in_a_batch_the_newest_stays(shops: Shops) -> None:
    shops.sold(1.0, at=0)
    shops.fill(2)
    write(shops, (2.5, 1.0), (4.5, 1.5), (3.5, 0.5))
    assert shops.total(2) == 4.5


def write(shops: Shops, *rows: tuple[float, float]) -> None:
    """Write rows of noon in one batch: the total, and the hour after noon it was written at."""
    table = pd.DataFrame(
        {
            "shop": "a",
            "till": 1,
            "at": NOON,
            "written": [NOON + timedelta(hours=hours) for _, hours in rows],
            "total": [total for total, _ in rows],
            "count": 0,
            "mood": "fine",
        }
    )
    shops.repository()._apply(shops.folder).store.write_to_online_store("sales", table)


def test_a_null_replaces_a_value(shops: Shops) -> None:
    shops.sold(1.0, at=0)
    shops.fill(1)
    shops.sold(None, at=1.5)
    shops.fill(2)
    assert shops.total(2) is None


def test_feasts_own_write_applies_the_same_rule(shops: Shops) -> None:
    """`feast materialize` and pushes go through the same store, also with an older window."""
    shops.sold(9.0, at=2)
    shops.sold(1.0, at=0)
    shops.fill(2)
    store = shops.repository()._apply(shops.folder).store
    store.materialize(NOON - timedelta(hours=1), NOON + timedelta(hours=1))
    assert shops.total(2) == 9.0


def test_a_store_that_was_emptied_between_two_ticks_is_filled_whole(shops: Shops) -> None:
    """One process, rows that never change: what it wrote before is gone and must come back."""
    shops.sold(2.5, at=0)
    shops.fill(1)
    follower, reader = shops.repository(), shops.online
    keys: dict[str, list[str | int | None]] = {"shop": ["a"], "till": [1]}
    for tick in (2, 3, 4):
        moment = NOON + timedelta(hours=tick)
        follower.materialise("shops", shops.folder, moment)
        assert reader.read([shops.view], keys, moment).columns["total"] == [2.5]
        shops.lose()


def test_the_store_never_goes_back_in_time(shops: Shops) -> None:
    shops.sold(1.0, at=0)
    shops.fill(3)
    shops.fill(3)
    with pytest.raises(Refused, match="cannot go back"):
        shops.fill(2)


def test_a_service_that_changed_in_place_is_refused(shops: Shops) -> None:
    shops.sold(1.0, at=0)
    shops.fill(1)
    pinned = shops.repository().resolve("shops")
    shops.online.verify(pinned)
    changed = SMALL.replace("hours=6", "hours=5")
    (shops.folder / "definitions.py").write_text(changed)
    with pytest.raises(Refused, match="shops changed in place"):
        shops.fill(2)
    shops.online.verify(pinned)
    shops.repository().materialise("shops", shops.folder, NOON + timedelta(hours=2), replace=True)
    with pytest.raises(Mismatch, match="pinned to shops@"):
        shops.online.verify(pinned)
    with pytest.raises(Mismatch, match="no such service"):
        shops.online.verify(replace(pinned, name="other"))


def test_a_service_may_not_vanish_but_get_another_beside_it(shops: Shops) -> None:
    """A renamed service once emptied the look-ups of the model that was still served."""
    shops.sold(1.0, at=0)
    shops.fill(1)
    served = shops.repository().resolve("shops")
    renamed = SMALL.replace('name="shops"', 'name="shops_v2"')
    (shops.folder / "definitions.py").write_text(renamed)
    moment = NOON + timedelta(hours=2)
    with pytest.raises(Refused, match="shops is gone from the definitions"):
        shops.repository().materialise("shops_v2", shops.folder, moment)
    shops.online.verify(served)
    beside = SMALL + 'shops_v2 = FeatureService(name="shops_v2", features=[sales[["total"]]])\n'
    (shops.folder / "definitions.py").write_text(beside)
    follower = shops.repository()
    follower.materialise("shops_v2", shops.folder, moment)
    shops.online.verify(served)
    shops.online.verify(follower.resolve("shops_v2"))


def test_a_value_that_cannot_be_read_back_fails_the_fill(shops: Shops) -> None:
    class Loses(FeastRepository):
        def _verify(self, view: FeatureView, newest: pl.DataFrame, until: datetime) -> None:
            super()._verify(view, newest.with_columns(total=pl.col("total") + 1), until)

    shops.sold(1.0, at=0)
    shops.fill(1)
    shops.sold(2.0, at=1.5)
    loses = Loses(
        shops.folder,
        shops.settings,
        registry=f"sqlite:///{shops.folder / 'registry.db'}",
        online_path=shops.folder / "online.db",
    )
    with pytest.raises(IntegrityError, match=r"total of shop=a, till=1 is 1\.0 online and 2\.0"):
        loses.materialise("shops", shops.folder, NOON + timedelta(hours=1))


def test_a_store_that_is_down_is_unavailable(tmp_path: Path) -> None:
    shops = Shops(tmp_path, SqliteOnline())
    with pytest.raises(Unavailable, match=r"online\.db cannot be used"):
        shops.online.read([shops.view], {"shop": ["a"], "till": [1]}, NOON)
    from tests.servers import free_port

    shops.settings = replace_online(shops.settings, RedisOnline(port=free_port()))
    with pytest.raises(Unavailable, match="Redis does not answer"):
        shops.online.verify(shops.repository().resolve("shops"))


def test_a_redis_that_goes_down_during_a_fill_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.servers import redis

    with redis(tmp_path / "redis") as port:
        shops = Shops(tmp_path, RedisOnline(port=port))
        shops.sold(2.5, at=0)
        shops.fill(0)
        repository = shops.repository()
        repository.apply(shops.folder)
    monkeypatch.setattr(repository._online, "filled", lambda: None)  # it went down after this look
    with pytest.raises(Unavailable, match="Redis does not answer"):
        repository.materialise("shops", shops.folder, NOON + timedelta(hours=1))


def replace_online(settings: FeatureSettings, online: RedisOnline) -> FeatureSettings:
    return settings.model_copy(update={"online": online})


def test_many_threads_read_at_once(shops: Shops) -> None:
    shops.sold(2.5, at=0)
    shops.fill(1)
    reader, view = shops.online, shops.view

    def read(_: int) -> Value:
        keys = {"shop": ["a"] * 3, "till": [1] * 3}
        return reader.read([view], keys, NOON).columns["total"][2]

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(read, range(200))) == {2.5}


def test_two_fills_at_once_do_not_mix(tmp_path: Path) -> None:
    shops = Shops(tmp_path, SqliteOnline())
    with shops.repository()._lock(), pytest.raises(Conflict, match="another process"):
        shops.fill(1)


def apply(repo: Path, state: Path, registry: str, times: int) -> None:
    for _ in range(times):
        FeastRepository(
            repo, FeatureSettings(), registry=registry, online_path=state / "online.db"
        ).apply(state)


def test_concurrent_applies_lose_nothing(tmp_path: Path, registry: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "definitions.py").write_text(SMALL)
    fork = multiprocessing.get_context("fork")  # Feast is imported already
    both = [
        fork.Process(target=apply, args=(repo, tmp_path, registry, 3)) for repo in (FLIGHTS, other)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    known = {name for _, name in views(registry)}
    assert known >= {"sales", "carrier_delay", "route_stats", "plane", "calendar"}


def test_the_reader_needs_no_heavy_library() -> None:
    code = (
        "import sys, tidemill.adapters.online_redis, tidemill.adapters.online_sqlite\n"
        "from tidemill.adapters.online import open_online\n"
        "print([m for m in ('feast', 'pandas', 'polars', 'pyarrow', 'google') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
