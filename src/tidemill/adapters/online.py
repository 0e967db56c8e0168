"""Feast's online stores, read without Feast: SQLite on one machine, Redis in production."""

from __future__ import annotations

from pathlib import Path

from tidemill.adapters.online_store import OnlineStore
from tidemill.settings.features import FeatureSettings, SqliteOnline

__all__ = ["open_online"]


def open_online(settings: FeatureSettings, path: Path, timeout: float) -> OnlineStore:
    """Open the online store of the settings; `path` is the SQLite file's, `timeout` in seconds."""
    online = settings.online
    if isinstance(online, SqliteOnline):
        from tidemill.adapters.online_sqlite import SqliteOnlineStore

        return SqliteOnlineStore(settings.project, path, timeout)
    from tidemill.adapters.online_redis import RedisOnlineStore, connect

    return RedisOnlineStore(settings.project, connect(online, timeout))
