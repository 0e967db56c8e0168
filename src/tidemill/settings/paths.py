"""Where things of a project lie: relative settings resolved against its root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tidemill.settings.schema import Settings

__all__ = ["Paths"]


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one project on this machine."""

    root: Path
    settings: Settings

    @property
    def state(self) -> Path:
        """Everything local that is not the project's source."""
        return self.resolve(self.settings.storage.state)

    @property
    def raw(self) -> Path:
        """Raw partitions, `<table>/<YYYY-MM>.parquet`."""
        return self.root / "data" / "raw"

    @property
    def features(self) -> Path:
        """Feature tables, `<view>.parquet`; the sources of the Feast views."""
        return self.root / "data" / "features"

    @property
    def runs(self) -> Path:
        """Pipeline runs, one folder each."""
        return self.state / "runs"

    @property
    def logs(self) -> Path:
        """Logs of the local platform's processes."""
        return self.state / "logs"

    def resolve(self, value: str) -> Path:
        """Resolve a path from the settings against the project's root."""
        return (self.root / value).absolute()

    def url(self, value: str) -> str:
        """Resolve a folder or `s3://` prefix: folders become absolute, URLs stay."""
        return value if "://" in value else str(self.resolve(value))

    def database(self, value: str) -> str:
        """Resolve an SQLAlchemy URL: a relative SQLite file becomes absolute."""
        prefix = "sqlite:///"
        if value.startswith(prefix) and not value.startswith(prefix + "/"):
            return prefix + str(self.resolve(value.removeprefix(prefix)))
        return value
