"""API keys in force: which one a token is, its permission, rate and quota."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from time import monotonic

import structlog

from tidemill.errors import TidemillError
from tidemill.server.bearer import forbidden, unauthenticated
from tidemill.server.bucket import Number, Own, TokenBucket
from tidemill.server.files import Watch
from tidemill.server.keys import ApiKey, Permission, digest, read_keys
from tidemill.server.protocol import Rejected
from tidemill.server.quota import Quota

__all__ = ["Keyring"]

log = structlog.get_logger(__name__)


def _utc() -> datetime:
    return datetime.now(UTC)


class Keyring:
    """The keys in force; raises ConfigError at the start when their file is not in order."""

    def __init__(
        self,
        path: Path,
        counts: Path,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = _utc,
        numbers: Callable[[str], Number] | None = None,
    ) -> None:
        """Read both files; `clock` counts seconds for the rates.

        `numbers` returns by name the numbers that the workers of a server share: their rates hold
        for all of them together.

        `counts` keeps what is used of quotas, if a key has one. `now` is the machine's own time: a
        replay of the past must not revive a key.
        """
        self._path = path
        self._counts = counts
        self._clock = clock
        self._now = now
        self._watch = Watch([path])
        self._numbers = numbers or (lambda _: Own())
        self._buckets: dict[str, TokenBucket] = {}
        self._keys: dict[str, ApiKey] = {}
        self._quota: Quota | None = None
        self._adopt(read_keys(path))

    @property
    def keys(self) -> list[ApiKey]:
        """The keys in force, expired ones too."""
        return list(self._keys.values())

    def reload(self) -> None:
        """Read the file again if it changed; a file that is not in order changes nothing."""
        if self._quota is not None:
            self._quota.save()
        if not self._watch.changed():
            return
        try:
            self._adopt(read_keys(self._path))
        except TidemillError as error:
            log.error("the API keys were not reloaded, the former ones stay", reason=error.message)
        else:
            log.info("API keys reloaded", ids=sorted(key.id for key in self._keys.values()))

    def admit(self, token: bytes, needed: Permission) -> str:
        """Let a request with this token pass, and return its key's id.

        Raises Rejected with 401, 403 or 429.
        """
        key = self._permitted(token, needed)
        bucket = self._buckets.get(key.id)
        if bucket is not None and (wait := bucket.take(self._clock())):
            raise Rejected(
                "rate_limited",
                f"the API key '{key.id}' may ask {bucket.rate:g} times a second",
                429,
                {b"retry-after": b"%d" % math.ceil(wait)},
            )
        if key.quota and self._quota and (seconds := self._quota.take(key.id, key.quota)):
            raise Rejected(
                "quota_exceeded",
                f"the API key '{key.id}' may ask {key.quota} times a day; days begin at 00:00 UTC",
                429,
                {b"retry-after": b"%d" % seconds},
            )
        return key.id

    def recognise(self, token: bytes, needed: Permission) -> str:
        """Return a token's key's id if it may do this; neither rate nor quota is taken."""
        return self._permitted(token, needed).id

    def _permitted(self, token: bytes, needed: Permission) -> ApiKey:
        key = self._find(token)
        if key.expires is not None and self._now() >= key.expires:
            raise unauthenticated("expired_key", f"the API key '{key.id}' has expired")
        if needed not in key.permissions:
            raise forbidden(
                f"this needs the permission '{needed}', which the API key '{key.id}' lacks"
            )
        return key

    def _find(self, token: bytes) -> ApiKey:
        found = digest(token)
        # The table is searched by hash: what its timing could tell says nothing about a token.
        key = self._keys.get(found or "")
        if key is None or not compare_digest(found or "", key.sha256):
            raise unauthenticated("unknown_key", "there is no such API key")
        return key

    def _adopt(self, keys: list[ApiKey]) -> None:
        if self._quota is None and any(key.quota for key in keys):
            self._quota = Quota(self._counts, self._now)
        self._keys = {key.sha256: key for key in keys}
        self._buckets = {key.id: self._bucket(key, key.rate) for key in keys if key.rate}

    def _bucket(self, key: ApiKey, rate: float) -> TokenBucket:
        """Return the key's bucket, the former one unless its numbers changed."""
        burst = max(1.0, rate) if key.burst is None else key.burst
        former = self._buckets.get(key.id)
        if former and (former.rate, former.burst) == (rate, burst):
            return former
        return TokenBucket(rate, burst, self._numbers(f"{key.id} {rate} {burst}"))
