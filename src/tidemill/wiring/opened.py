"""What every part stands on: settings, paths, clock, store, objects, processes."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.settings import Paths, Settings
from tidemill.settings.secrets import reveal

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidemill.local.platform import Platform
    from tidemill.ports.clock import Clock
    from tidemill.ports.objects import ObjectStore

__all__ = ["Opened"]


class Opened:
    """An opened project without its parts."""

    def __init__(self, root: Path, settings: Settings, options: tuple[str, ...] = ()) -> None:
        """`options` are the command line's, with which another process gets the same settings."""
        self.root = root
        self.settings = settings
        self.paths = Paths(root, settings)
        self._options = options

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

        storage = self.settings.storage
        return open_store(self.paths.database(storage.database), reveal(storage.database_password))

    @cached_property
    def objects(self) -> ObjectStore:
        """Data, models, logs and evidence."""
        from tidemill.adapters.objects import open_objects

        storage = self.settings.storage
        return open_objects(self.paths.url(storage.objects), storage.endpoint_url)

    def command(self, *words: str) -> tuple[str, ...]:
        """Return the argv that runs a verb of this project in another process."""
        start = (sys.executable, "-c", "from tidemill.cli import main; main()")
        return (*start, f"--project={self.root}", *self._options, *words)

    @cached_property
    def platform(self) -> Platform:
        """The supervised processes of this machine."""
        from tidemill.local.platform import Platform

        return Platform(self.paths.state / "platform", self.paths.logs)
