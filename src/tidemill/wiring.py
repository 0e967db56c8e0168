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
from typing import TYPE_CHECKING

from tidemill.settings import Paths, Settings, load

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidemill.local.platform import Platform
    from tidemill.ports.clock import Clock

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
    def platform(self) -> Platform:
        """The supervised processes of this machine."""
        from tidemill.local.platform import Platform

        return Platform(self.paths.state / "platform", self.paths.logs)
