"""TLS: the server's certificate and the clients that it trusts, read again when they change."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog

from tidemill.errors import ConfigError
from tidemill.server.files import Watch

__all__ = ["Certificates", "Pem"]

log = structlog.get_logger(__name__)


class Pem(NamedTuple):
    """The files in force, as they were read."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


class _Current(ssl.SSLContext):
    """Makes each connection with the context that is in force then.

    A listener keeps the one it was given, and what a context trusts can only grow. Another in its
    place also forgets the sessions that clients could resume without showing a certificate.
    """

    within: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection; asyncio and uvloop call this."""
        return self.within.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class Certificates:
    """A context that new connections are made with, and when its certificate expires.

    Raises ConfigError when a file is not in order, or the certificate has expired.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._watch = Watch([cert, key, *([client_ca] if client_ca else [])])
        self.context = _Current(ssl.PROTOCOL_TLS_SERVER)
        self.context.within, self.expires = self._load()
        self.pem = self._read()

    def reload(self) -> None:
        """Use changed files for new connections; those that are not in order are not used."""
        if not self._watch.changed():
            return
        try:
            loaded, pem = self._load(), self._read()
        except (ConfigError, OSError) as error:
            # Between the replacement of the two files they do not match; the next one is read too.
            log.error("the certificate was not reloaded, the former one stays", reason=str(error))
        else:
            self.context.within, self.expires = loaded
            self.pem = pem
            log.info("certificate reloaded")

    def _read(self) -> Pem:
        client_ca = self._client_ca.read_bytes() if self._client_ca else None
        return Pem(self._cert.read_bytes(), self._key.read_bytes(), client_ca)

    def _load(self) -> tuple[ssl.SSLContext, datetime]:
        from cryptography import x509

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_passphrase)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"serving.tls: {self._cert} and {self._key} cannot be used: {error}",
                hint="both are PEM files, and the key is the certificate's, without a passphrase",
            ) from error
        expires = x509.load_pem_x509_certificates(self._cert.read_bytes())[0].not_valid_after_utc
        if expires <= datetime.now(UTC):
            raise ConfigError(
                f"serving.tls.cert: {self._cert} expired at {expires:%Y-%m-%d %H:%M} UTC",
                hint="renew it: no client would accept it",
            )
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"serving.tls.client_ca: {self._client_ca} cannot be used: {error}"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context, expires


def _no_passphrase() -> str:
    """Keep OpenSSL from asking for a passphrase on the terminal."""
    return ""
