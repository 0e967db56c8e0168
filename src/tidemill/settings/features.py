"""Features: the repository, the service a model is pinned to, the online store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidemill.settings.base import DatabaseUrl, Group, Secret

__all__ = ["FeatureSettings", "OnlineStore", "RedisOnline", "SqliteOnline"]


class SqliteOnline(Group):
    """Feast's SQLite online store: one machine."""

    type: Literal["sqlite"] = "sqlite"
    """Store."""
    path: str = ".tidemill/feast/online.db"
    """Database file, relative to the project."""


class RedisOnline(Group):
    """Feast's Redis online store: production."""

    type: Literal["redis"] = "redis"
    """Store."""
    host: str = "127.0.0.1"
    """Host of the Redis server."""
    port: int = Field(default=6379, ge=1, le=65535)
    """Port of the Redis server."""
    database: int = Field(default=0, ge=0)
    """Redis database number."""
    password: Secret = ""
    """Password by reference; empty means none."""


OnlineStore = Annotated[SqliteOnline | RedisOnline, Field(discriminator="type")]


class FeatureSettings(Group):
    """The feature repository and how it is read."""

    repo: str = "feature_repo"
    """Folder with Feast definitions (`definitions.py`) and `transforms.py`, in the project."""
    project: str = "flights"
    """Feast's project name; part of every online key."""
    service: str = "flight_delay_v1"
    """Feature service that training and serving read."""
    registry: DatabaseUrl = "sqlite:///.tidemill/feast/registry.db"
    """SQL registry of Feast; the file registry loses concurrent writes and is not offered."""
    registry_password: Secret = ""
    """Password of a PostgreSQL registry, by reference; its URL must hold none."""
    online: OnlineStore = SqliteOnline()
    """Online store."""
    horizon_minutes: int = Field(default=60, ge=0)
    """A prediction is made this many minutes before the event's scheduled instant."""
    step_minutes: int = Field(default=180, ge=1)
    """Distance between two snapshots of the rolling statistics, and between materialisations."""
    lookback_days: int = Field(default=28, ge=0)
    """The longest window of `transforms.py`: the follower reads raw data this far back."""
