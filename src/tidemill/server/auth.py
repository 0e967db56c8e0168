"""Who may ask what: a request's key, its permission, its rate."""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from time import monotonic

import structlog

from tidemill.errors import Refused, TidemillError, Unavailable
from tidemill.server.bucket import TokenBucket
from tidemill.server.files import Watch
from tidemill.server.keys import ApiKey, Permission, digest, read_keys
from tidemill.server.protocol import Rejected
from tidemill.settings.serving import ServingSettings

__all__ = ["Keyring", "refuse_exposure"]

log = structlog.get_logger(__name__)

SCHEME = b"bearer "
CHALLENGE = b"www-authenticate"


def _utc() -> datetime:
    return datetime.now(UTC)


class Keyring:
    """The keys in force; raises ConfigError at the start when their file is not in order."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = _utc,
    ) -> None:
        """`clock` counts seconds for the rates; `now` tells what has expired.

        `now` is the machine's own time: a replay of the past must not revive a key.
        """
        self._path = path
        self._clock = clock
        self._now = now
        self._watch = Watch([path])
        self._buckets: dict[str, TokenBucket] = {}
        self._keys: dict[str, ApiKey] = {}
        self._adopt(read_keys(path))

    def reload(self) -> None:
        """Read the file again if it changed; a file that is not in order changes nothing."""
        if not self._watch.changed():
            return
        try:
            self._adopt(read_keys(self._path))
        except TidemillError as error:
            log.error("the API keys were not reloaded, the former ones stay", reason=error.message)
        else:
            log.info("API keys reloaded", ids=sorted(key.id for key in self._keys.values()))

    def admit(self, authorization: bytes, needed: Permission) -> str:
        """Let a request pass and return its key's id; raises Rejected with 401, 403 or 429."""
        key = self._find(authorization)
        if key.expires is not None and self._now() >= key.expires:
            raise _unauthenticated("expired_key", f"the API key '{key.id}' has expired")
        if needed not in key.permissions:
            raise Rejected(
                "forbidden",
                f"this needs the permission '{needed}', which the API key '{key.id}' lacks",
                403,
                {CHALLENGE: b'Bearer error="insufficient_scope"'},
            )
        bucket = self._buckets.get(key.id)
        if bucket is not None and (wait := bucket.take(self._clock())):
            raise Rejected(
                "rate_limited",
                f"the API key '{key.id}' may ask {bucket.rate:g} times a second",
                429,
                {b"retry-after": b"%d" % math.ceil(wait)},
            )
        return key.id

    def _find(self, authorization: bytes) -> ApiKey:
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise _unauthenticated(
                "missing_key", "expected the header 'Authorization: Bearer KEY'", known=False
            )
        found = digest(authorization[len(SCHEME) :].strip())
        # The table is searched by hash: what its timing could tell says nothing about a token.
        key = self._keys.get(found or "")
        if key is None or not compare_digest(found or "", key.sha256):
            raise _unauthenticated("unknown_key", "there is no such API key")
        return key

    def _adopt(self, keys: list[ApiKey]) -> None:
        self._keys = {key.sha256: key for key in keys}
        self._buckets = {key.id: self._bucket(key, key.rate) for key in keys if key.rate}

    def _bucket(self, key: ApiKey, rate: float) -> TokenBucket:
        """Return the key's bucket, the former one unless its numbers changed."""
        burst = max(1.0, rate) if key.burst is None else key.burst
        former = self._buckets.get(key.id)
        if former and (former.rate, former.burst) == (rate, burst):
            return former
        return TokenBucket(rate, burst, self._clock())


def _unauthenticated(code: str, message: str, *, known: bool = True) -> Rejected:
    """Build the refusal of RFC 6750, section 3."""
    challenge = b'Bearer realm="tidemill"' + (b', error="invalid_token"' if known else b"")
    return Rejected(code, message, 401, {CHALLENGE: challenge})


def refuse_exposure(host: str, settings: ServingSettings) -> None:
    """Refuse to listen beyond loopback for everyone, unless that is said; raises Refused."""
    if settings.auth.key_file or settings.tls.client_ca:
        if not settings.tls.cert and not _loopback(host):
            log.warning("API keys travel in the clear, unless a gateway ends TLS", host=host)
        return
    if _loopback(host):
        return
    if not settings.auth.allow_anonymous:
        raise Refused(
            f"{host} is not a loopback address, and the server has no authentication",
            hint="set serving.auth.key_file (tidemill serve key new), or say that everyone may "
            "call it: serving.auth.allow_anonymous=true",
        )
    log.warning("NO AUTHENTICATION: everyone who reaches this port may call it", host=host)


def _loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the address '{host}' is not known: {error.strerror}") from error
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
