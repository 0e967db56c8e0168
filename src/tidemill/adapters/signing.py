"""Signing with OpenSSF model-signing: an EC P-256 key of the project, offline.

Verification is `tidemill.bundle.verify`; it needs no SDK.
"""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.bundle import SIGNATURE
from tidemill.errors import IntegrityError, MissingExtra, Unavailable

__all__ = ["Signer"]


class Signer:
    """Signs bundles with a private key, which the first use of a project without keys generates."""

    def __init__(self, private_key: Path, public_key: Path) -> None:
        self._private = private_key
        self._public = public_key

    def sign(self, folder: Path) -> Path:
        """Write `model.sig` over every other file of a bundle and return its path.

        Raises IntegrityError when the folder holds what cannot be signed (a link, nothing),
        Unavailable when the signature cannot be written.
        """
        try:
            from model_signing import hashing, signing
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "model_signing", "registry") from error

        self.ensure_key()
        # A relative name: the library records a path beside the folder as it is given.
        files = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
        config = signing.Config().set_hashing_config(files)
        path = folder / SIGNATURE
        partial = folder.parent / f".{folder.name}.{SIGNATURE}.{os.getpid()}"
        try:
            config.use_elliptic_key_signer(private_key=self._private).sign(folder, partial)
            partial.replace(path)
        except ValueError as error:
            raise IntegrityError(f"{folder} cannot be signed: {error}") from error
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be written: {error.strerror}", hint="free space, then sign again"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def ensure_key(self) -> Path:
        """Generate the key pair if there is none, and return the public key's path.

        Two processes that generate at once end with one pair: the first file wins. Raises
        IntegrityError for half a pair.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        # In this order: who generates writes the private key first.
        if self._public.exists() and not self._private.exists():
            raise IntegrityError(
                f"there is no private key {self._private} to the public key {self._public}",
                hint="restore it; in a pod mount it: execution.resources.register.secret_files",
            )
        if not self._private.exists():
            pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            _create(self._private, pem)
        try:
            key = serialization.load_pem_private_key(self._private.read_bytes(), None)
        except (ValueError, TypeError, OSError) as error:
            raise IntegrityError(
                f"{self._private} holds no usable private key: {error}",
                hint="restore it from a backup; a new key makes every older bundle unverifiable",
            ) from error
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if not self._public.exists():
            _create(self._public, public, mode=0o644)
        elif self._public.read_bytes() != public:
            raise IntegrityError(
                f"{self._public} is not the public key of {self._private}",
                hint="one of the two was replaced; restore the pair",
            )
        return self._public


def _create(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a new file whole, readable as `mode` says; an existing one stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    finally:
        partial.unlink()
