"""Feast's online stores with one rule for writes: the newest event timestamp wins.

Feast's SQLite store lets an older value replace a newer one, its Redis store ignores a corrected
value of the same event timestamp. Both are subclassed here, their format unchanged, so that a row
is written exactly when its event timestamp is at or after the stored one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from tidemill.adapters.feast_sdk import (
    FeatureView,
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RepoConfig,
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    mmh3,
    redis_key,
    serialize_entity_key,
)
from tidemill.adapters.online_redis import connect, explained
from tidemill.settings.features import RedisOnline

__all__ = [
    "NewestRedisOnlineStore",
    "NewestRedisOnlineStoreConfig",
    "NewestSqliteOnlineStore",
    "NewestSqliteOnlineStoreConfig",
]

Rows: TypeAlias = Sequence[tuple[Any, dict[str, Any], datetime, datetime | None]]
"""Entity key, values by feature (both protobuf), event timestamp, created timestamp."""
Progress: TypeAlias = Callable[[int], Any] | None
WRITE_TIMEOUT = 30.0
"""Seconds: a fill may wait for a busy server, a lookup may not."""
UPSERT = """
INSERT INTO "{table}" (entity_key, feature_name, value, event_ts, created_ts)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (entity_key, feature_name) DO UPDATE
SET value = excluded.value, event_ts = excluded.event_ts, created_ts = excluded.created_ts
WHERE excluded.event_ts > event_ts
   OR excluded.event_ts = event_ts AND ifnull(excluded.created_ts, 0) >= ifnull(created_ts, 0)
"""


class NewestSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    """As Feast's SQLite store."""

    type: Literal["tidemill.adapters.feast_stores.NewestSqliteOnlineStore"] = (
        "tidemill.adapters.feast_stores.NewestSqliteOnlineStore"
    )


class NewestSqliteOnlineStore(SqliteOnlineStore):  # type: ignore[misc]
    """SQLite in write-ahead mode, so that readers and the writer do not block one another."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Rows, progress: Progress
    ) -> None:
        """Write the rows of one view in one transaction."""
        name = f"{config.project}_{table.name}".replace('"', '""')
        with self._get_conn(config) as connection:
            connection.executemany(
                UPSERT.format(table=name),
                [
                    (key, feature, value.SerializeToString(), at, created)
                    for identity, values, stamp, written in data
                    for key in [_identity(identity, config)]
                    for at, created in [(_epoch(stamp), written and _epoch(written))]
                    for feature, value in values.items()
                ],
            )
        if progress:
            progress(len(data))

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        fresh = self._conn is None
        connection: sqlite3.Connection = super()._get_conn(config)
        if fresh:
            connection.execute(f"PRAGMA busy_timeout = {WRITE_TIMEOUT * 1000:.0f}")
            connection.execute("PRAGMA journal_mode = WAL")
        return connection


class NewestRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """As Feast's Redis store, with the connection as tidemill's settings describe it."""

    type: Literal["tidemill.adapters.feast_stores.NewestRedisOnlineStore"] = (
        "tidemill.adapters.feast_stores.NewestRedisOnlineStore"
    )
    connection: RedisOnline = RedisOnline()


class NewestRedisOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Redis; each row of a view is written by one command, whole or not at all."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Rows, progress: Progress
    ) -> None:
        """Write the rows that are not older than what is stored; raises Unavailable."""
        client = self._get_client(config.online_store)
        stamp_field = f"_ts:{table.name}".encode()
        keys = [redis_key(config.project, row[0], 3) for row in data]
        with explained(), client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, stamp_field)
            stored = pipe.execute()
            for key, held, (_, values, stamp, _) in zip(keys, stored, data, strict=True):
                at = _timestamp(stamp)
                if held is None or at.ToNanoseconds() >= Timestamp.FromString(held).ToNanoseconds():
                    fields = {
                        mmh3(f"{table.name}:{feature}"): value.SerializeToString()
                        for feature, value in values.items()
                    }
                    pipe.hset(key, mapping={stamp_field: at.SerializeToString(), **fields})
            pipe.execute()
        if progress:
            progress(len(data))

    def _get_client(self, online_store_config: NewestRedisOnlineStoreConfig) -> Any:
        if not self._client:
            self._client: Any = connect(online_store_config.connection, WRITE_TIMEOUT)
        return self._client


def _identity(key: Any, config: RepoConfig) -> bytes:
    version = config.entity_key_serialization_version
    return bytes(serialize_entity_key(key, entity_key_serialization_version=version))


def _epoch(instant: datetime) -> int:
    """Return epoch seconds; Feast's own adapter reads UTC as the machine's local time."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return int(aware.timestamp())


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
