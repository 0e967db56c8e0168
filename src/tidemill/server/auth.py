"""Who may ask what: API keys and JSON Web Tokens behind one door."""

from __future__ import annotations

import ipaddress
import socket

import structlog

from tidemill.errors import Refused, Unavailable
from tidemill.server.bearer import credential
from tidemill.server.keyring import Keyring
from tidemill.server.keys import Permission
from tidemill.server.tokens import Tokens
from tidemill.settings.serving import ServingSettings

__all__ = ["Authentication", "refuse_exposure"]

log = structlog.get_logger(__name__)


class Authentication:
    """Asks for an API key, a token, or either: the credential's form decides."""

    def __init__(self, keys: Keyring | None, tokens: Tokens | None = None) -> None:
        """At least one of the two must be given."""
        self._keys = keys
        self._tokens = tokens

    def admit(self, authorization: bytes, needed: Permission) -> None:
        """Let a request with this header pass; raises Rejected with 401, 403 or 429."""
        token = credential(authorization)
        if self._tokens is not None and (self._keys is None or token.count(b".") == 2):
            self._tokens.admit(token, needed)
        elif self._keys is not None:
            self._keys.admit(token, needed)

    def reload(self) -> None:
        """Once a second: look for keys that changed; returns at once."""
        if self._keys is not None:
            self._keys.reload()
        if self._tokens is not None:
            self._tokens.reload()


def refuse_exposure(host: str, settings: ServingSettings) -> None:
    """Refuse to listen beyond loopback for everyone, unless that is said; raises Refused."""
    if settings.auth.key_file or settings.auth.jwt.jwks or settings.tls.client_ca:
        if not settings.tls.cert and not _loopback(host):
            log.warning("keys and tokens travel in the clear, unless a gateway ends TLS", host=host)
        return
    if _loopback(host):
        return
    if not settings.auth.allow_anonymous:
        raise Refused(
            f"{host} is not a loopback address, and the server has no authentication",
            hint="set serving.auth.key_file (tidemill serve key new) or serving.auth.jwt, or say "
            "that everyone may call it: serving.auth.allow_anonymous=true",
        )
    log.warning("NO AUTHENTICATION: everyone who reaches this port may call it", host=host)


def _loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the address '{host}' is not known: {error.strerror}") from error
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
