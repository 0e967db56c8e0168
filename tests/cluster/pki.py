"""The certificates of one test cluster: its own authority, and a kubeconfig for each identity."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs for one test cluster; `path` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("tidemill test cluster")
        own = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / "ca.crt"
        self.path.write_bytes(own.public_bytes(Encoding.PEM))

    def issue(
        self, file: str, name: str, *, organization: str = "", hosts: Sequence[str] = ()
    ) -> Pair:
        """Write a certificate; Kubernetes reads `name` as the user, `organization` as the group."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_subject(name, organization), key)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        pair = Pair(self._folder / f"{file}.crt", write_key(self._folder / f"{file}.key", key))
        made = builder.sign(self._key, hashes.SHA256())
        pair.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=7))
        )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """Write a private key for its owner alone."""
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def write_token_keys(folder: Path) -> tuple[Path, Path]:
    """Write the key pair that signs and checks ServiceAccount tokens; returns private, public."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = folder / "service-accounts.pub"
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(text)
    return write_key(folder / "service-accounts.key", key), public


def write_kubeconfig(path: Path, server: str, authority: bytes, user: dict[str, Any]) -> Path:
    """Write a kubeconfig with one context; JSON is YAML."""
    cluster = {"server": server, "certificate-authority-data": _base64(authority)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def certificate_user(pair: Pair) -> dict[str, Any]:
    """Return a kubeconfig's user that logs in with a client certificate."""
    return {
        "client-certificate-data": _base64(pair.certificate.read_bytes()),
        "client-key-data": _base64(pair.key.read_bytes()),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _subject(name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
