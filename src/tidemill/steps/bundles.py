"""Bundles by revision: fetched from the registry once, verified before use."""

from __future__ import annotations

from pathlib import Path

from tidemill.bundle import revision as revision_of
from tidemill.bundle import verify
from tidemill.errors import NotFound
from tidemill.ports.registry import Catalog, ModelRegistry

__all__ = ["RegisteredBundles"]


class RegisteredBundles:
    """Implements `ports.monitoring.Bundles` over the model registry."""

    def __init__(
        self, model: str, catalog: Catalog, registry: ModelRegistry, cache: Path, verify_key: Path
    ) -> None:
        self._model = model
        self._catalog = catalog
        self._registry = registry
        self._cache = cache
        self._verify_key = verify_key

    def folder(self, revision: str) -> Path:
        """Return a verified local copy of the bundle."""
        folder = self._cache / revision
        if not folder.is_dir():
            versions = {revision_of(v.digest): v for v in self._catalog.search(self._model)}
            if revision not in versions:
                raise NotFound.among(f"registered revision of {self._model}", revision, versions)
            self._cache.mkdir(parents=True, exist_ok=True)
            self._registry.fetch(versions[revision], folder)
        verify(folder, self._verify_key)
        return folder
