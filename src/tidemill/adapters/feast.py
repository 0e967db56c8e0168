"""The Feast repository: services and their digests, training joins, materialisation.

Importing Feast takes a CPU second: a process opens this once or not at all. The
repository's `definitions.py` is the source of truth, registries are derived from it. A join uses a
registry of its own in a temporary folder, so that two runs never see each other's tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

from tidemill.adapters.asof import latest
from tidemill.adapters.feast_config import private_config, repo_config
from tidemill.adapters.feast_definitions import Definitions
from tidemill.adapters.feast_sdk import FeatureStore
from tidemill.adapters.feast_table import check_table
from tidemill.adapters.online import open_online
from tidemill.adapters.online_store import Filled
from tidemill.bundle import FeatureService, FeatureView
from tidemill.errors import Conflict, DataError, IntegrityError, Refused, TidemillError
from tidemill.ports.features import Materialised, Value
from tidemill.settings.features import FeatureSettings

__all__ = ["FeastRepository", "to_entities"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMEOUT = 30.0
"""Seconds that a fill waits for the online store."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Definitions that are in the project's registry."""

    definitions: Definitions
    store: FeatureStore
    views: dict[str, Any]
    inode: int


class FeastRepository:
    """A folder of Feast definitions, opened."""

    def __init__(
        self, repo: Path, settings: FeatureSettings, *, registry: str, online_path: Path
    ) -> None:
        self._repo = repo
        self._settings = settings
        self._registry = registry
        self._online_path = online_path
        self._online = open_online(settings, online_path, TIMEOUT)
        self._applied: dict[Path, Applied] = {}
        self._written: dict[str, pl.DataFrame] = {}
        self._filled: Filled | None = None

    def resolve(self, name: str) -> FeatureService:
        """Resolve a service to its views and digest; see `ports.features.FeatureSource`."""
        return self._definitions.resolve(name)

    def join(self, service: str, spine: pl.DataFrame, tables: Path) -> pl.DataFrame:
        """Add the service's features to `spine`; see `ports.features.FeatureSource`."""
        definitions = Definitions(self._repo, self._settings.project, tables)
        views = definitions.resolve(service).views
        for view in views:
            check_table(definitions.table(view.name), view, tables)
        keys = sorted({key for view in views for key in view.join_keys})
        entities = to_entities(spine, keys)
        with tempfile.TemporaryDirectory() as folder, _quiet("join the features"):
            config = private_config(self._repo, self._settings, Path(folder))
            store = FeatureStore(config=config)
            store.apply(definitions.objects)
            job = store.get_historical_features(
                entity_df=entities,
                features=store.get_feature_service(service),
                filter_by_created_timestamp=True,
            )
            joined = pl.DataFrame(job.to_arrow())
        return spine.hstack(joined.select(f.name for view in views for f in view.fields))

    def apply(self, tables: Path) -> dict[str, str]:
        """Write the definitions to the project's registry; return services and digests."""
        return self._apply(tables).definitions.digests()

    def materialise(
        self, service: str, tables: Path, until: datetime, *, replace: bool = False
    ) -> Materialised:
        """Fill the online store; see `ports.features.FeatureSource`."""
        with self._lock():
            applied = self._apply(tables)
            digests = applied.definitions.digests()
            filled = self._online.filled()
            if filled is None or filled != self._filled:
                self._written.clear()  # the store was emptied, or another process filled it
            if replace:
                self._empty(applied)
            elif filled:
                _guard(filled, digests, until)
            applied.definitions.resolve(service)
            services = (applied.definitions.resolve(name) for name in digests)
            views = {view.name: view for one in services for view in one.views}
            rows = {n: self._fill(applied, view, tables, until) for n, view in views.items()}
            self._filled = Filled(until, digests)
            self._online.advance(self._filled)
        return Materialised(until, {view: count for view, count in rows.items() if count})

    def _fill(self, applied: Applied, view: FeatureView, tables: Path, until: datetime) -> int:
        """Write each key's newest row that can still be served; return how many keys.

        The window reaches back a whole ttl: late and corrected rows arrive whenever they come. What
        Feast would select is selected here, by the code of its offline store, because what is equal
        to the last fill need not be written; Feast's provider writes the rest. `materialize` would
        select anew, and add every window to a list in the registry, which grows for ever.
        """
        table = applied.definitions.table(view.name)
        check_table(table, view, tables)
        since = until - timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else EPOCH
        newest = latest(
            pl.scan_parquet(tables / table.file),
            keys=view.join_keys,
            timestamp=table.timestamp,
            created=table.created,
            since=since,
            until=until,
        ).collect()
        held = self._written.get(view.name)
        if newest.is_empty() or (held is not None and newest.equals(held)):
            return 0
        with _quiet(f"materialise the view '{view.name}'"):
            applied.store._get_provider().ingest_df(
                applied.views[view.name], newest.to_pandas(use_pyarrow_extension_array=True)
            )
        self._verify(view, newest, until)
        self._written[view.name] = newest
        return newest.height

    def _empty(self, applied: Applied) -> None:
        """Remove every value; until the fill is over, lookups find nothing."""
        views = list(applied.views.values())
        store = applied.store
        with _quiet("empty the online store"):
            for delete, keep in ((views, []), ([], views)):
                store._get_provider().online_store.update(
                    store.config, delete, keep, [], [], partial=True
                )
        self._written.clear()

    def _verify(self, view: FeatureView, newest: pl.DataFrame, until: datetime) -> None:
        """Read every written key back; raises IntegrityError at the first difference."""
        keys = {key: newest[key].to_list() for key in view.join_keys}
        columns = self._online.read([view], keys, until).columns
        for feature in view.fields:
            for row, (wanted, found) in enumerate(
                zip(newest[feature.name], columns[feature.name], strict=True)
            ):
                if _plain(wanted) != found:
                    entity = ", ".join(f"{key}={values[row]}" for key, values in keys.items())
                    raise IntegrityError(
                        f"after materialising, {view.name}:{feature.name} of {entity} is {found} "
                        f"online and {wanted} offline",
                        hint="start over: tidemill features materialize --replace",
                    )

    @cached_property
    def _definitions(self) -> Definitions:
        return Definitions(self._repo, self._settings.project, Path())

    def _apply(self, tables: Path) -> Applied:
        """Apply the definitions, their sources in `tables`, once per process and SQLite file."""
        applied = self._applied.get(tables)
        if applied is None or applied.inode != self._inode:
            definitions = Definitions(self._repo, self._settings.project, tables)
            config = repo_config(
                self._repo,
                self._settings,
                registry=self._registry,
                online_path=self._online_path,
            )
            with self._alone(), _quiet("apply the definitions"):
                store = FeatureStore(config=config)
                store.apply(definitions.objects)
                views = {view.name: view for view in store.list_feature_views()}
            self._applied[tables] = Applied(definitions, store, views, self._inode)
        return self._applied[tables]

    @property
    def _inode(self) -> int:
        """The SQLite file that is there now; 0 for none."""
        return self._online_path.stat().st_ino if self._online_path.exists() else 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other processes of this machine: two first ones would both make the tables."""
        path = self._online_path.with_suffix(".apply.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process of this machine fill the store at a time."""
        path = self._online_path.with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    "another process is materialising",
                    hint="wait for it; `tidemill status` shows the follower",
                ) from error
            yield


def _guard(filled: Filled, digests: dict[str, str], until: datetime) -> None:
    """Refuse to go back in time, or to change a service under models that are pinned to it."""
    if filled.as_of > until:
        raise Refused(
            f"the online store is filled up to {filled.as_of.isoformat()}; it cannot go back "
            f"to {until.isoformat()}",
            hint="start over from then: tidemill features materialize --replace",
        )
    for name in filled.services.keys() - digests.keys():
        raise Refused(
            f"the feature service {name} is gone from the definitions; models that are served may "
            "be pinned to it",
            hint="keep it beside the new one until none is; then: "
            "tidemill features materialize --replace",
        )
    changed = [name for name, pinned in filled.services.items() if digests[name] != pinned]
    if changed:
        raise Refused(
            f"the definition of {', '.join(changed)} changed in place; models that are served "
            "are pinned to the old one",
            hint="leave it as it was and add a service with a new name beside it (docs: features)",
        )


def to_entities(spine: pl.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return keys and instants as Feast takes them; Arrow-backed text is not copied row by row."""
    frame = spine.select(keys).to_pandas(use_pyarrow_extension_array=True)
    return frame.assign(event_timestamp=spine["event_timestamp"].to_pandas())


def _plain(value: Value) -> Value:
    """Return what the online store keeps of a value: NaN is null."""
    return None if isinstance(value, float) and math.isnan(value) else value


@contextlib.contextmanager
def _quiet(doing: str) -> Iterator[None]:
    """Drop Feast's progress output and raise its errors as DataError."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except TidemillError:
        raise
    except Exception as error:
        raise DataError(f"Feast could not {doing}: {type(error).__name__}: {error}") from error
