"""Feast's online stores with one rule for writes: the newest event wins, and its newest row.

Feast's SQLite store lets an older value replace a newer one, its Redis store ignores a corrected
value of the same event timestamp. Both are subclassed here, so that a row is written exactly when
its event timestamp is after the stored one, or the same and its created timestamp is not older.
Feast reads what they write; the created timestamp is a field more of the hash in Redis.
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
NEVER = (-(2**63), 0)
"""The age of no row, before any that a timestamp can tell."""
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
        stamps = [f"_ts:{table.name}".encode(), f"_created:{table.name}".encode()]
        keys = [redis_key(config.project, row[0], 3) for row in data]
        with explained(), client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, stamps)
            newest = {key: _age(*held) for key, held in zip(keys, pipe.execute(), strict=True)}
            for key, (_, values, *instants) in zip(keys, data, strict=True):
                written = [_timestamp(instant) for instant in instants]
                if _age(*written) >= newest[key]:
                    newest[key] = _age(*written)
                    fields = {
                        mmh3(f"{table.name}:{feature}"): value.SerializeToString()
                        for feature, value in values.items()
                    }
                    pipe.hset(key, mapping={**dict(zip(stamps, written, strict=True)), **fields})
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


def _timestamp(instant: datetime | None) -> bytes:
    """Return an instant as Redis holds it; none is empty, which is the epoch."""
    stamp = Timestamp()
    if instant:
        stamp.FromDatetime(instant)
    return bytes(stamp.SerializeToString())


def _age(event: bytes | None, created: bytes | None) -> tuple[int, int]:
    """Return what rows of one key are ordered by; nothing stored comes before everything."""
    if event is None:
        return NEVER
    return _nanoseconds(event), _nanoseconds(created or b"")


def _nanoseconds(stamp: bytes) -> int:
    return int(Timestamp.FromString(stamp).ToNanoseconds())
