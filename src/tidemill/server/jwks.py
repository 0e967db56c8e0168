"""JSON Web Key Sets (RFC 7517): the public keys that tokens are signed with, kept up to date.

Requests read a table in memory. A thread that lives as long as one read brings a changed set; while
the place of the set does not answer, or holds no set, the last good one stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from threading import Thread
from time import monotonic

import jwt
import structlog

from tidemill.errors import ConfigError, TidemillError

__all__ = ["KeySet"]

log = structlog.get_logger(__name__)

COOLDOWN_SECONDS = 5.0
"""Between two reads because of key ids that nobody knows: anyone can make them up."""


class KeySet:
    """Public keys by id; raises ConfigError or Unavailable when there is none at the start."""

    def __init__(
        self,
        read: Callable[[], bytes],
        *,
        refresh_seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`read` returns the JSON document, and raises TidemillError when it cannot."""
        self._read = read
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._document = read()
        self._keys = parse(self._document)
        self._read_at = clock()
        self._unknown = self._busy = self._failing = False

    @property
    def ids(self) -> list[str]:
        """The ids of the keys in force, sorted."""
        return sorted(self._keys)

    def find(self, kid: str) -> jwt.PyJWK | None:
        """Return a key; an id that is not there has the set read again before long."""
        key = self._keys.get(kid)
        if key is None:
            self._unknown = True
        return key

    def reload(self) -> Thread | None:
        """Have the set read when it is time to; returns at once, with the thread that reads."""
        wait = self._refresh_seconds
        if self._unknown:
            wait = min(wait, COOLDOWN_SECONDS)
        if self._busy or self._clock() - self._read_at < wait:
            return None
        self._busy = True
        thread = Thread(target=self._refresh, name="jwks", daemon=True)
        thread.start()
        return thread

    def _refresh(self) -> None:
        self._unknown = False
        try:
            document = self._read()
            if document != self._document:
                self._keys = parse(document)
                self._document = document
                log.info("the key set was reloaded", ids=self.ids)
            self._failing = False
        except TidemillError as error:
            if not self._failing:
                log.error("the key set was not reloaded, the former stays", reason=error.message)
            self._failing = True
        finally:
            self._read_at = self._clock()
            self._busy = False


def parse(document: bytes) -> Mapping[str, jwt.PyJWK]:
    """Return the asymmetric signing keys by their id; raises ConfigError when there is none.

    Symmetric keys are left out: who can check with such a key can also sign with it.
    """
    try:
        listed = json.loads(document)["keys"]
        usable = [jwk for jwk in listed if jwk.get("kty") != "oct" and jwk.get("use") != "enc"]
        keys = jwt.PyJWKSet(usable).keys
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"serving.auth.jwt.jwks holds no JSON Web Key Set: {error!r}") from error
    except jwt.PyJWTError as error:
        raise ConfigError(
            f"serving.auth.jwt.jwks holds no public key to use: {error}",
            hint="name the address that the issuer's metadata has as 'jwks_uri'",
        ) from error
    if not (found := {key.key_id: key for key in keys if key.key_id}):
        raise ConfigError("serving.auth.jwt.jwks: none of the keys has an id ('kid')")
    return found
