"""A registry in memory, bundles and all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tidemill.bundle import digest, read_manifest
from tidemill.errors import NotFound
from tidemill.ports.registry import ModelVersion

__all__ = ["MemoryRegistry"]


@dataclass
class MemoryRegistry:
    """Keeps versions in a list and bundles in a folder; also the aliases and the catalog."""

    folder: Path
    kept: list[ModelVersion] = field(default_factory=list)
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    """Version by alias, by model."""

    def publish(self, bundle: Path, tags: Mapping[str, str], run_id: str) -> ModelVersion:
        """Register a bundle once."""
        name, identity = read_manifest(bundle).name, digest(bundle)
        for known in self.search(name):
            if known.digest == identity:
                return known
        number = str(len(self.search(name)) + 1)
        shutil.copytree(bundle, self.folder / name / number)
        version = ModelVersion(name, number, identity, run_id, {**tags, "digest": identity})
        self.kept.append(version)
        return version

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that `name@alias`, `name/3` or `name` means."""
        name, at, alias = reference.partition("@")
        number = self.held.get(name, {}).get(alias, "") if at else reference.partition("/")[2]
        for version in self.search(name.partition("/")[0]):
            if (not at and not number) or version.version == number:
                return version
        raise NotFound.among("model version", reference, map(str, self.kept))

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Copy a version's bundle."""
        return shutil.copytree(self.folder / version.name / version.version, folder)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Let `alias` of the model mean `version`."""
        self.held.setdefault(name, {})[alias] = version

    def aliases(self, name: str) -> dict[str, str]:
        """Return version by alias."""
        return dict(self.held.get(name, {}))

    def search(self, name: str = "", tags: Mapping[str, str] | None = None) -> list[ModelVersion]:
        """Return the versions of a model with these tags, newest first."""
        return [
            replace(v, aliases=tuple(a for a, n in self.aliases(v.name).items() if n == v.version))
            for v in reversed(self.kept)
            if name in ("", v.name) and (tags or {}).items() <= v.tags.items()
        ]
