"""The Feast repository: services and their digests, training joins, materialisation.

Import cost is about five CPU seconds, so a process opens this once or not at all. The repository's
`definitions.py` is the source of truth; registries are derived from it. Joins use a registry of
their own in a temporary folder, so that two runs never see each other's tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
from feast import Entity, FeatureStore, FeatureView, FileSource, RepoConfig
from feast import FeatureService as FeastService

from tidemill.adapters.feast_config import repo_config
from tidemill.adapters.project_code import load
from tidemill.bundle import FeatureField, FeatureService
from tidemill.bundle import FeatureView as PinnedView
from tidemill.errors import ConfigError, DataError, NotFound
from tidemill.settings.features import FeatureSettings

__all__ = ["FeastRepository"]


class FeastRepository:
    """A folder of Feast definitions, opened."""

    def __init__(self, repo: Path, settings: FeatureSettings) -> None:
        self._repo = repo
        self._settings = settings

    def resolve(self, name: str) -> FeatureService:
        """Resolve a service to its views and digest; raises NotFound or ConfigError."""
        views = [self._pin(view) for view in self._views(name)]
        body = [_identity(pinned, self._view(pinned.name).batch_source) for pinned in views]
        text = json.dumps(sorted(body, key=lambda view: str(view["name"])), sort_keys=True)
        digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        return FeatureService(name, self._settings.project, digest, tuple(views))

    def join(self, service: str, spine: pl.DataFrame, tables: Path) -> pl.DataFrame:
        """Add the service's features to `spine`; see `ports.features.FeatureSource`."""
        pinned = self.resolve(service)
        for view in pinned.views:
            self._check(view, tables)
        keys = sorted({key for view in pinned.views for key in view.join_keys})
        entities = spine.select(*keys, "event_timestamp").to_pandas()
        names = [field.name for view in pinned.views for field in view.fields]
        with tempfile.TemporaryDirectory() as folder, _feast_errors("join features"):
            store = self._store(repo_config(self._repo, self._settings, Path(folder)))
            store.apply(self._objects(tables))
            job = store.get_historical_features(
                entity_df=entities,
                features=store.get_feature_service(service),
                filter_by_created_timestamp=True,
            )
            joined = pl.from_arrow(job.to_arrow())
        assert isinstance(joined, pl.DataFrame)
        return spine.hstack(joined.select(names))

    @cached_property
    def _definitions(self) -> ModuleType:
        return load(self._repo / "definitions.py")

    def _named(self, kind: type[Any]) -> dict[str, Any]:
        found: Iterable[Any] = vars(self._definitions).values()
        return {value.name: value for value in found if isinstance(value, kind)}

    def _view(self, name: str) -> FeatureView:
        return self._named(FeatureView)[name]

    def _views(self, service: str) -> list[Any]:
        services = self._named(FeastService)
        if service not in services:
            raise NotFound.among("feature service", service, services)
        return list(services[service].feature_view_projections)

    def _pin(self, projection: Any) -> PinnedView:
        """Resolve one view of a service; what the online reader cannot honour is refused."""
        view = self._named(FeatureView).get(projection.name)
        if view is None or projection.name_alias or projection.join_key_map:
            raise ConfigError(
                f"the service's view '{projection.name}' is on demand, renamed or has mapped keys",
                hint="tidemill serves plain feature views under their own name",
            )
        source = view.batch_source
        if source.tags.get("revised") == "true" and not source.created_timestamp_column:
            raise ConfigError(
                f"the source of view '{view.name}' is revised but names no created column: "
                "training would see corrections before they were made",
                hint="set created_timestamp_column on the source",
            )
        entities = self._named(Entity)
        return PinnedView(
            name=view.name,
            join_keys=tuple(sorted(entities[name].join_key for name in view.entities)),
            fields=tuple(FeatureField(f.name, str(f.dtype)) for f in projection.features),
            ttl_seconds=int(view.ttl.total_seconds()) if view.ttl else 0,
        )

    def _objects(self, tables: Path) -> list[Any]:
        """Return the repository's objects with their sources moved to the folder `tables`."""
        module = load(self._repo / "definitions.py")
        objects = [o for o in vars(module).values() if isinstance(o, Entity | FeastService)]
        for view in (o for o in vars(module).values() if isinstance(o, FeatureView)):
            source = view.batch_source
            if isinstance(source, FileSource):
                source.file_options.uri = str(tables / Path(source.path).name)
            objects.append(view)
        return objects

    def _store(self, config: RepoConfig) -> FeatureStore:
        return FeatureStore(repo_path=str(self._repo), config=config)

    def _check(self, view: PinnedView, tables: Path) -> None:
        """Compare a feature table's columns with its view."""
        path = tables / Path(self._view(view.name).batch_source.path).name
        if not path.is_file():
            raise NotFound(
                f"the feature table {path.name} is not in {tables}",
                hint="compute the feature tables: tidemill features build",
            )
        try:
            schema = pl.read_parquet_schema(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"the feature table {path} cannot be read: {error}") from error
        source = self._view(view.name).batch_source
        stamps = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
        wanted = [*view.join_keys, *stamps, *(field.name for field in view.fields)]
        missing = [name for name in wanted if name not in schema]
        if missing:
            raise DataError(
                f"the feature table {path.name} lacks {', '.join(missing)} of view '{view.name}'",
                hint="definitions.py and transforms.py of the feature repository must agree",
            )


def _identity(view: PinnedView, source: Any) -> dict[str, Any]:
    """Return what a view's values depend on; neither registry timestamps nor folders."""
    return {
        "name": view.name,
        "fields": sorted([field.name, field.dtype] for field in view.fields),
        "ttl_seconds": view.ttl_seconds,
        "join_keys": list(view.join_keys),
        "source": {
            "type": type(source).__name__,
            "file": Path(source.path).name,
            "timestamp": source.timestamp_field,
            "created": source.created_timestamp_column or None,
            "mapping": dict(source.field_mapping),
            "tags": dict(source.tags),
        },
    }


@contextlib.contextmanager
def _feast_errors(doing: str) -> Iterator[None]:
    """Keep Feast's progress output to itself and raise its errors as DataError."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        raise DataError(f"Feast could not {doing}: {type(error).__name__}: {error}") from error
