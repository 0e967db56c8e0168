"""The registry of released models, and the aliases that say which of them is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Aliases", "BundleSigner", "Catalog", "ModelRegistry", "ModelVersion"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version of a model. Its tags carry its whole lineage."""

    name: str
    version: str
    """A number, counted by the registry: `"1"`, `"2"`, …"""
    digest: str
    """The bundle's digest, `sha256:…`; whoever loads the version checks it."""
    run_id: str = ""
    """The tracker's run that made it."""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class ModelRegistry(Protocol):
    """Where bundles are published and fetched.

    Every method raises Unavailable when the registry does not answer.
    """

    def publish(self, bundle: Path, tags: Mapping[str, str], run_id: str) -> ModelVersion:
        """Register a signed bundle under its manifest's name as the next version.

        A bundle that is registered already is not registered twice: its version is returned.
        """
        ...

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that `name@alias`, `name/3` or `name` (the newest) means.

        Raises NotFound that lists what exists.
        """
        ...

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Download a version's bundle into `folder`, whole or not at all, and return it.

        Raises IntegrityError when the bytes are not those that were registered.
        """
        ...


class Aliases(Protocol):
    """Which version an alias means. Only `tidemill.steps.promote` moves one."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Let `alias` of the model mean `version`."""
        ...

    def aliases(self, name: str) -> dict[str, str]:
        """Return version by alias; empty for a model without aliases or an unknown one."""
        ...


class Catalog(Protocol):
    """Versions, found by what their tags say."""

    def search(self, name: str = "", tags: Mapping[str, str] | None = None) -> list[ModelVersion]:
        """Return the versions of a model (or of all) with these tags, newest first."""
        ...


class BundleSigner(Protocol):
    """Signs bundles with the project's key."""

    def sign(self, folder: Path) -> Path:
        """Write the bundle's signature and return its path; raises IntegrityError."""
        ...
