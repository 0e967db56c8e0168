"""The composition root: settings become adapters here and nowhere else.

`Project` is what the CLI, the components and the DVC stages open. Every factory imports its
adapter when called, so that a process loads only the SDKs it uses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tidemill.settings import Paths, Settings, load

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidemill.local.platform import Platform
    from tidemill.ports.clock import Clock
    from tidemill.ports.data import DatasetVersions, PartitionLedger, Source
    from tidemill.ports.features import FeatureSource, Transforms
    from tidemill.ports.objects import ObjectStore
    from tidemill.ports.runs import Runs
    from tidemill.settings.contract import Contract

__all__ = ["Project"]


class Project:
    """A project, opened: its settings, paths and adapters."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self.settings = settings
        self.paths = Paths(root, settings)

    @classmethod
    def load(
        cls, root: Path | None = None, *, env: str | None = None, assignments: Sequence[str] = ()
    ) -> Project:
        """Open the project at or above `root` with its layered settings."""
        loaded = load(root, env=env, assignments=assignments)
        return cls(loaded.paths.root, loaded.settings)

    @classmethod
    def open(cls, config: str) -> Project:
        """Open a project from a resolved configuration that `save` wrote; steps get its path."""
        body = json.loads(Path(config).read_text())
        return cls(Path(body["root"]), Settings.model_validate(body["settings"]))

    def save(self, path: Path) -> Path:
        """Write the resolved configuration, so that other processes open the very same project."""
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"root": str(self.root), "settings": self.settings.model_dump(mode="json")}
        path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
        return path

    @cached_property
    def clock(self) -> Clock:
        """The system's clock, or the replay that `TIDEMILL_CLOCK` names."""
        from tidemill.adapters.clock import ReplayClock, SystemClock

        replay = os.environ.get("TIDEMILL_CLOCK")
        return ReplayClock(Path(replay)) if replay else SystemClock()

    @cached_property
    def store(self) -> Engine:
        """The store of ledgers, rollouts and incidents."""
        from tidemill.adapters.store.engine import open_store

        return open_store(self.paths.database(self.settings.storage.database))

    @cached_property
    def objects(self) -> ObjectStore:
        """Data, models, logs and evidence."""
        from tidemill.adapters.objects import open_objects

        storage = self.settings.storage
        return open_objects(self.paths.url(storage.objects), storage.endpoint_url)

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
    def features(self) -> FeatureSource:
        """The feature repository; loads Feast."""
        from tidemill.adapters.feast import FeastRepository

        settings = self.settings.features
        return FeastRepository(self.paths.resolve(settings.repo), settings)

    @cached_property
    def platform(self) -> Platform:
        """The supervised processes of this machine."""
        from tidemill.local.platform import Platform

        return Platform(self.paths.state / "platform", self.paths.logs)

    @cached_property
    def runs(self) -> Runs:
        """Where pipelines run by default."""
        return self.runs_on(self.settings.execution.on)

    def runs_on(self, place: str) -> Runs:
        """Return the runs on this machine (`local`) or on Kubeflow Pipelines (`kfp`)."""
        from tidemill.adapters.kfp.local import LocalRuns

        return LocalRuns(self.root, self.paths.runs, self.settings.execution, self.save, self.clock)
