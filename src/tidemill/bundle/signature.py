"""Verification of a bundle's signature with `cryptography` alone.

`model.sig` is what OpenSSF model-signing 1.x writes with an EC P-256 key: a Sigstore bundle (v0.3)
around a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement
(https://github.com/in-toto/attestation) that lists every file with its SHA-256. That library takes
seconds to import and a server needs only this one path of it, so it is read here; the tests hold
both against each other. Stricter than the library: one signature, one key, no file but `model.sig`
unsigned, no links.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tidemill.bundle.content import FETCH, SIGNATURE, hashes, identity, read, unreadable
from tidemill.errors import IntegrityError, NotFound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["verify"]

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
KEY = "registry.verify_key must name the public key that the first signature wrote"
MAX_BYTES = 4 * 1024 * 1024
"""A larger signature is refused unread: a bundle's holds some hundred bytes per file."""


def verify(folder: Path, public_key: Path) -> str:
    """Verify a bundle's signature and every file against it; return the bundle's digest.

    `public_key` is a PEM file with an EC P-256 key. Raises IntegrityError that names the file and
    the reason, NotFound when there is no public key, Unavailable when the bundle cannot be read.
    """
    signed = _resources(_payload(folder, _key(public_key)))
    found = hashes(folder)
    problems = [
        *(f"'{name}' is missing" for name in sorted(signed.keys() - found.keys())),
        *(f"'{name}' was not signed" for name in sorted(found.keys() - signed.keys())),
        *(
            f"'{name}' is not what was signed: its sha256 is {found[name]}, signed {signed[name]}"
            for name in sorted(found.keys() & signed.keys())
            if found[name] != signed[name]
        ),
    ]
    if problems:
        raise IntegrityError(
            f"the bundle {folder} does not match its signature: " + "; ".join(problems),
            hint=f"do not serve it; {FETCH}",
        )
    return identity(found)


def _key(path: Path) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise NotFound(
            f"there is no public key to verify with: {path}: {error.strerror}",
            hint="registry.verify_key names it; the first signature writes it",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(f"{path} holds no PEM public key: {error}", hint=KEY) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise IntegrityError(f"{path} holds no EC P-256 key", hint=KEY)
    return key


def _payload(folder: Path, key: EllipticCurvePublicKey) -> bytes:
    """Return the signed statement of the bundle's signature, after the signature was checked."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes as digests
    from cryptography.hazmat.primitives.asymmetric import ec

    path = folder / SIGNATURE
    try:
        envelope = _envelope(folder, key)
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        raw = base64.b64decode(signature["sig"], validate=True)
    except OSError as error:
        raise unreadable(folder, SIGNATURE, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is malformed: {_reason(error)}", hint=FETCH) from error
    try:
        key.verify(raw, _pae(payload), ec.ECDSA(digests.SHA256()))
    except InvalidSignature as error:
        raise IntegrityError(
            f"{path} was not made by the expected key, or was edited",
            hint="do not serve it; is registry.verify_key the key of whoever signed?",
        ) from error
    return payload


def _envelope(folder: Path, key: EllipticCurvePublicKey) -> Mapping[str, Any]:
    if (folder / SIGNATURE).is_symlink():
        raise ValueError("it is a link")
    content = read(folder, SIGNATURE, MAX_BYTES + 1)
    if content is None:
        raise IntegrityError(
            f"{folder} is not signed: it has no {SIGNATURE}",
            hint=f"sign it: tidemill registry sign {folder}",
        )
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    body = json.loads(content)
    _expect("media type", body["mediaType"], MEDIA_TYPE)
    hint = body["verificationMaterial"]["publicKey"]["hint"]
    _expect("key", hint, _fingerprint(key))
    envelope = body["dsseEnvelope"]
    _expect("payload type", envelope["payloadType"], PAYLOAD_TYPE)
    return envelope  # type: ignore[no-any-return]


def _resources(payload: bytes) -> dict[str, str]:
    """Return SHA-256 by file name from a statement whose signature holds."""
    try:
        statement = json.loads(payload)
        _expect("statement type", statement["_type"], STATEMENT_TYPE)
        _expect("predicate type", statement["predicateType"], PREDICATE_TYPE)
        (subject,) = statement["subject"]
        predicate = statement["predicate"]
        _expect("method", predicate["serialization"]["method"], "files")
        found: dict[str, str] = {}
        root = hashlib.sha256()
        for resource in predicate["resources"]:
            name, value = resource["name"], resource["digest"]
            _expect("algorithm", resource["algorithm"], "sha256")
            if name in found or not _inside(name):
                raise ValueError(f"the name {name!r} is double or leaves the bundle")
            found[name] = value
            root.update(bytes.fromhex(value))
        _expect("root digest", subject["digest"]["sha256"], root.hexdigest())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"the signed statement is malformed: {_reason(error)}",
            hint="do not serve it; a good signature is made by: tidemill registry sign FOLDER",
        ) from error
    return found


def _expect(what: str, found: object, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"its {what} is {found!r}, expected {wanted!r}")


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _pae(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of a payload."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
