"""JSON Web Tokens (RFC 7519), checked by the advice of RFC 8725.

What a token may be signed with is a matter of the settings and of the key, never of the token. A
verified one is remembered by its SHA-256 until it expires or the key set changes: a signature costs
as much as a small model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from time import time
from typing import Any, NamedTuple

import jwt

from tidemill.server.bearer import forbidden, unauthenticated
from tidemill.server.jwks import KeySet
from tidemill.server.keys import Permission
from tidemill.server.protocol import Rejected
from tidemill.settings.serving import JwtSettings

__all__ = ["Tokens"]

REMEMBERED = 10_000
"""Verified tokens in memory, some 5 MB; above it the oldest is forgotten."""


class Grant(NamedTuple):
    """What a verified token opens."""

    kid: str
    key: jwt.PyJWK
    permissions: frozenset[Permission]
    expires: float
    """Epoch seconds, the clock's skew included."""
    caller: str
    """Stands for the subject: see `_caller`."""


class Tokens:
    """Admits requests whose token one of the set's keys has signed."""

    def __init__(
        self, keys: KeySet, settings: JwtSettings, *, now: Callable[[], float] = time
    ) -> None:
        """`now` is the machine's own time in epoch seconds: a replay must not revive a token."""
        self._keys = keys
        self._settings = settings
        self._now = now
        self._scopes: dict[str, Permission] = {
            settings.infer_scope: "infer",
            settings.admin_scope: "admin",
        }
        self._grants: dict[bytes, Grant] = {}

    def reload(self) -> None:
        """Have the key set read when it is time to; returns at once."""
        self._keys.reload()

    def admit(self, token: bytes, needed: Permission) -> str:
        """Let a request with this token pass, and return what stands for its subject.

        Raises Rejected with 401 or 403.
        """
        name = hashlib.sha256(token).digest()
        grant = self._grants.get(name)
        if grant is None or self._keys.find(grant.kid) is not grant.key:
            grant = self._verify(token)
            if len(self._grants) >= REMEMBERED:
                del self._grants[next(iter(self._grants))]
            self._grants[name] = grant
        if self._now() >= grant.expires:
            del self._grants[name]
            raise _expired()
        if needed not in grant.permissions:
            scope = {v: k for k, v in self._scopes.items()}[needed]
            raise forbidden(
                f"this needs '{scope}' in the token's claim '{self._settings.claim}'", scope
            )
        return grant.caller

    def recognise(self, token: bytes, needed: Permission) -> str:
        """Do the same: nothing is counted of tokens."""
        return self.admit(token, needed)

    def _verify(self, token: bytes) -> Grant:
        settings = self._settings
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._keys.find(kid)
            if key is None:
                raise unauthenticated("invalid_token", "no known key has signed the token ('kid')")
            claims = jwt.decode(
                token,
                key,
                algorithms=settings.algorithms,
                audience=settings.audience,
                issuer=settings.issuer or None,
                leeway=settings.leeway_seconds,
                options={
                    "require": ["exp", "aud", *(["iss"] if settings.issuer else [])],
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.ExpiredSignatureError as error:
            raise _expired() from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise unauthenticated("invalid_token", f"the token is not valid: {error}") from error
        expires = int(claims["exp"]) + settings.leeway_seconds
        return Grant(kid, key, self._permissions(claims), expires, _caller(claims.get("sub")))

    def _permissions(self, claims: dict[str, Any]) -> frozenset[Permission]:
        given = claims.get(self._settings.claim, "")
        scopes = given.split() if isinstance(given, str) else given
        if not isinstance(scopes, list):
            scopes = []
        return frozenset(p for scope, p in self._scopes.items() if scope in scopes)


def _caller(subject: object) -> str:
    """Return a name for the access log: 64 bits of BLAKE2b (RFC 7693); empty without a subject.

    A subject may be an e-mail address, and of any length.
    """
    if not subject:
        return ""
    # JSON may hold half of a surrogate pair, which has no UTF-8.
    text = str(subject).encode(errors="backslashreplace")
    return f"token:{hashlib.blake2b(text, digest_size=8).hexdigest()}"


def _expired() -> Rejected:
    return unauthenticated("expired_token", "the token has expired")
