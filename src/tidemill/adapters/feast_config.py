"""Feast's configuration, built from tidemill's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feast import RepoConfig

from tidemill.settings.features import FeatureSettings

__all__ = ["repo_config"]


def repo_config(
    repo: Path, settings: FeatureSettings, folder: Path | None = None, online: Any = None
) -> RepoConfig:
    """Describe the registry and stores.

    With `folder` everything lives there: a registry for one join that nobody else sees.
    """
    if folder is not None:
        registry = f"sqlite:///{folder / 'registry.db'}"
        online = {"type": "sqlite", "path": str(folder / "online.db")}
    return RepoConfig(
        project=settings.project,
        provider="local",
        repo_path=repo,
        registry={
            "registry_type": "sql",
            "path": registry,
            "serve_features_while_materializing": True,
        },
        offline_store={"type": "tidemill.adapters.asof.AsofPolarsOfflineStore"},
        online_store=online,
        entity_key_serialization_version=3,
    )
