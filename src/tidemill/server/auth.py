"""Who may ask what: API keys and JSON Web Tokens behind one door."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

import structlog

from tidemill.errors import Refused, Unavailable
from tidemill.server.bearer import credential
from tidemill.server.keyring import Keyring
from tidemill.server.keys import Permission
from tidemill.settings.serving import ServingSettings

if TYPE_CHECKING:
    from tidemill.server.tokens import Tokens

__all__ = ["Authentication", "refuse_exposure"]

log = structlog.get_logger(__name__)


class Authentication:
    """Asks for an API key, a token, or either: the credential's form decides."""

    def __init__(self, keys: Keyring | None, tokens: Tokens | None = None) -> None:
        """Raise ValueError when both are None: such a door would be open."""
        plain, dotted = keys or tokens, tokens or keys
        if plain is None or dotted is None:
            raise ValueError("neither API keys nor tokens to ask for")
        self._plain = plain
        self._dotted = dotted

    def admit(self, authorization: bytes, needed: Permission) -> str:
        """Let a request with this header pass, and return whose it is, for the access log.

        Raises Rejected with 401, 403 or 429.
        """
        token = credential(authorization)
        return self._door(token).admit(token, needed)

    def recognise(self, authorization: bytes, needed: Permission) -> str:
        """Say whose a request with this header is, and count nothing; raises Rejected."""
        token = credential(authorization)
        return self._door(token).recognise(token, needed)

    def _door(self, token: bytes) -> Keyring | Tokens:
        return self._dotted if token.count(b".") == 2 else self._plain

    def reload(self) -> None:
        """Once a second: look for keys that changed; returns at once."""
        self._plain.reload()
        if self._dotted is not self._plain:
            self._dotted.reload()


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
