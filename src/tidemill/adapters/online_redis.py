"""The Redis online store that Feast writes, read without Feast.

One hash per entity key, shared by all views with those join keys. Its fields are four bytes of
murmur3 over `view:feature`, and `_ts:view` with the event timestamp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tidemill.adapters.feast_wire import decode_instant
from tidemill.adapters.online_store import Filled, OnlineStore, Row
from tidemill.bundle import FeatureView
from tidemill.errors import MissingExtra, Unavailable
from tidemill.settings.features import RedisOnline
from tidemill.settings.secrets import reveal

if TYPE_CHECKING:
    import redis

__all__ = ["RedisOnlineStore", "connect", "explained"]


class RedisOnlineStore(OnlineStore):
    """One round trip per read, whatever the number of rows and views."""

    def __init__(self, project: str, client: redis.Redis) -> None:
        super().__init__(project)
        self._client = client

    def advance(self, filled: Filled) -> None:
        """Record what the store is filled with now."""
        with explained():
            self._client.set(self._record, filled.to_json())

    @property
    def _record(self) -> str:
        return f"tidemill:{self._project}:filled"

    def _fetch(
        self, wanted: Sequence[tuple[FeatureView, list[bytes]]]
    ) -> tuple[Filled | None, list[dict[bytes, Row]]]:
        plan = [(view, list(dict.fromkeys(ids)), _hash_fields(view)) for view, ids in wanted]
        with explained():
            pipe = self._client.pipeline(transaction=False)
            pipe.get(self._record)
            for _, identities, fields in plan:
                for identity in identities:
                    pipe.hmget(identity + self._project.encode(), fields)  # type: ignore[arg-type]
            record, *answers = pipe.execute()
        answered = iter(answers)
        stored: list[dict[bytes, Row]] = []
        for view, identities, _ in plan:
            names = [column.name for column in view.fields]
            rows: dict[bytes, Row] = {}
            for identity, (stamp, *values) in zip(identities, answered, strict=False):
                if stamp is not None:
                    rows[identity] = (
                        decode_instant(stamp),
                        dict(zip(names, values, strict=True)),
                    )
            stored.append(rows)
        return (Filled.from_json(record) if record else None), stored


@contextmanager
def explained() -> Iterator[None]:
    """Raise what the client raises as Unavailable."""
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise Unavailable(
            f"the online store in Redis does not answer: {error}",
            hint="check features.online and that the server runs",
        ) from error


def connect(online: RedisOnline, timeout: float) -> redis.Redis:
    """Open a client; it connects when first used. Raises MissingExtra without the library."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise MissingExtra("redis", "features") from error
    return redis.Redis(
        host=online.host,
        port=online.port,
        db=online.database,
        password=reveal(online.password) or None,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 1),  # by default it waits for seconds
    )


def _hash_fields(view: FeatureView) -> list[Any]:
    """Name the fields of a view in Redis: its timestamp, then a hash of each feature's name."""
    import mmh3

    names = (f"{view.name}:{column.name}" for column in view.fields)
    return [
        f"_ts:{view.name}".encode(),
        *(struct.pack("<I", mmh3.hash(name, signed=False)) for name in names),
    ]
