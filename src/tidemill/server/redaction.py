"""What the prediction log keeps of columns that the data contract tags `pii`."""

from __future__ import annotations

import hashlib

from tidemill.bundle import Manifest
from tidemill.errors import ConfigError, IntegrityError

__all__ = ["Redaction", "pseudonym"]

MASK = "***"
KEY_BYTES = 16
"""Shortest key of hashes: what nobody can try out."""


class Redaction:
    """Replaces or removes values by the manifest; raises when it cannot do what that asks.

    IntegrityError: a column that is no input and no join key, or a number to be hashed.
    ConfigError: a hash without a key.
    """

    def __init__(self, manifest: Manifest, key: str) -> None:
        numbers = set(manifest.of_type("FP32"))
        held = numbers | set(manifest.of_type("BYTES")) | set(manifest.entities)
        hashed = {name for name, how in manifest.pii.items() if how == "hash"}
        if unfit := sorted((manifest.pii.keys() - held) | (hashed & numbers)):
            raise IntegrityError(
                f"the manifest's pii names {unfit}, which cannot be kept out of the prediction log",
                hint="package the model again with this version",
            )
        if hashed and len(key.encode()) < KEY_BYTES:
            raise ConfigError(
                f"the prediction log must hash {sorted(hashed)}, but serving.log.hash_key has "
                f"{len(key.encode())} bytes, expected {KEY_BYTES} or more",
                hint="openssl rand -hex 32 > FILE, then serving.log.hash_key: file:FILE",
            )
        self._pii = manifest.pii
        self._key = key
        self.dropped = frozenset(name for name, how in manifest.pii.items() if how == "drop")

    def hides(self, number: str) -> bool:
        """Return whether the values of a number, or of a vector of them, are left out."""
        return number in self._pii

    def replace(self, name: str, values: list[str | None]) -> list[str | None]:
        """Return what stands for the values of a column of texts; a missing one stays missing."""
        how = self._pii.get(name)
        if how == "mask":
            return [MASK if value else value for value in values]
        if how == "hash":
            return [pseudonym(self._key, value) if value else value for value in values]
        return values


def pseudonym(key: str, value: str) -> str:
    """Return what stands for a value: 128 bits of keyed BLAKE2b (RFC 7693), hexadecimal.

    Equal values have equal pseudonyms in all columns and models, so what knows the key can join.
    """
    short = hashlib.blake2b(key.encode()).digest()
    return hashlib.blake2b(value.encode(), key=short, digest_size=16).hexdigest()
