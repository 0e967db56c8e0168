"""Feast's configuration, built from tidemill's settings: they win over `feature_store.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tidemill.adapters.feast_sdk import RepoConfig
from tidemill.settings.features import FeatureSettings, SqliteOnline
from tidemill.settings.secrets import reveal

__all__ = ["private_config", "repo_config"]

STORES = "tidemill.adapters.feast_stores"


def repo_config(
    repo: Path, settings: FeatureSettings, *, registry: str, online_path: Path
) -> RepoConfig:
    """Describe the project's registry and stores; makes the folders that SQLite needs.

    `registry` is an absolute SQLAlchemy URL, `online_path` the SQLite online store's file.
    """
    online: dict[str, Any]
    if isinstance(settings.online, SqliteOnline):
        online_path.parent.mkdir(parents=True, exist_ok=True)
        online = {"type": f"{STORES}.NewestSqliteOnlineStore", "path": str(online_path)}
    else:
        online = {
            "type": f"{STORES}.NewestRedisOnlineStore",
            "connection": settings.online.model_dump(),
        }
    if registry.startswith("sqlite:///"):
        Path(registry.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return _config(repo, settings.project, _secured(registry, settings), online)


def _secured(registry: str, settings: FeatureSettings) -> str:
    """Return the registry's URL with the password that the settings refer to."""
    password = reveal(settings.registry_password)
    if not password:
        return registry
    return make_url(registry).set(password=password).render_as_string(hide_password=False)


def private_config(repo: Path, settings: FeatureSettings, folder: Path) -> RepoConfig:
    """Describe a registry of its own in `folder`, for one join that nobody else sees."""
    online = {"type": "sqlite", "path": str(folder / "online.db")}
    return _config(repo, settings.project, f"sqlite:///{folder / 'registry.db'}", online)


def _config(repo: Path, project: str, registry: str, online: dict[str, Any]) -> RepoConfig:
    return RepoConfig(
        project=project,
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
        materialization={"pull_latest_features": True},
    )
