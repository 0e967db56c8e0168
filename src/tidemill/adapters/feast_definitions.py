"""What a feature repository defines: views and services from `definitions.py`, with digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tidemill.adapters.feast_sdk import Entity, FeatureView, FileSource
from tidemill.adapters.feast_sdk import FeatureService as FeastService
from tidemill.adapters.feast_table import DTYPES, Table
from tidemill.adapters.project_code import load
from tidemill.bundle import FeatureField, FeatureService
from tidemill.bundle import FeatureView as PinnedView
from tidemill.errors import ConfigError, NotFound

__all__ = ["Definitions"]


class Definitions:
    """One run of `definitions.py`, its sources moved to the folder `tables`."""

    def __init__(self, repo: Path, project: str, tables: Path) -> None:
        found: Iterable[Any] = vars(load(repo / "definitions.py")).values()
        self.objects = [o for o in found if isinstance(o, Entity | FeatureView | FeastService)]
        self._project = project
        self._views = {o.name: o for o in self.objects if isinstance(o, FeatureView)}
        self._entities = {o.name: o for o in self.objects if isinstance(o, Entity)}
        self._services = {o.name: o for o in self.objects if isinstance(o, FeastService)}
        for view in self._views.values():
            source = view.batch_source
            if isinstance(source, FileSource):
                source.file_options.uri = str(tables / Path(source.path).name)

    def digests(self) -> dict[str, str]:
        """Return every service with its digest."""
        return {name: self.resolve(name).digest for name in sorted(self._services)}

    def table(self, view: str) -> Table:
        """Return the table behind a view."""
        return Table(self._views[view].batch_source)

    def resolve(self, name: str) -> FeatureService:
        """Resolve a service to its views and the digest of all that their values depend on."""
        if name not in self._services:
            raise NotFound.among("feature service", name, self._services)
        views = [self._pin(p) for p in self._services[name].feature_view_projections]
        bodies = [self._identity(view) for view in sorted(views, key=lambda view: view.name)]
        digest = hashlib.sha256(json.dumps(bodies, sort_keys=True).encode()).hexdigest()
        return FeatureService(name, self._project, f"sha256:{digest}", tuple(views))

    def _pin(self, projection: Any) -> PinnedView:
        view = self._views.get(projection.name)
        if view is None or projection.name_alias or projection.join_key_map:
            raise ConfigError(
                f"the service's view '{projection.name}' is on demand, renamed or has mapped keys",
                hint="let the service hold plain feature views under their own name",
            )
        _refuse(view)
        ttl = view.ttl or timedelta()
        return PinnedView(
            name=view.name,
            join_keys=tuple(sorted(self._entities[name].join_key for name in view.entities)),
            fields=tuple(FeatureField(f.name, str(f.dtype)) for f in projection.features),
            ttl_seconds=int(ttl.total_seconds()),
        )

    def _identity(self, view: PinnedView) -> dict[str, Any]:
        """Return what a view's values depend on; neither registry timestamps nor folders."""
        source = self._views[view.name].batch_source
        table = Table(source)
        return {
            "name": view.name,
            "fields": sorted([field.name, field.dtype] for field in view.fields),
            "ttl_seconds": view.ttl_seconds,
            "join_keys": list(view.join_keys),
            "source": [table.file, table.timestamp, table.created, sorted(source.tags.items())],
        }


def _refuse(view: FeatureView) -> None:
    """Refuse what offline and online could not honour alike."""
    source = view.batch_source
    if not isinstance(source, FileSource) or source.field_mapping:
        raise ConfigError(
            f"view '{view.name}' does not read a Parquet file under its own column names",
            hint="let transforms.py write <view>.parquet with the view's columns",
        )
    if source.tags.get("revised") == "true" and not source.created_timestamp_column:
        raise ConfigError(
            f"the source of view '{view.name}' is revised but names no created column: training "
            "would see corrections before they were made",
            hint="set created_timestamp_column on the source",
        )
    for field in view.features:
        if str(field.dtype) not in DTYPES:
            raise ConfigError(
                f"feature '{view.name}:{field.name}' has the type {field.dtype}",
                hint=f"types that can be served: {', '.join(sorted(DTYPES))}",
            )
