"""What the prediction log keeps of columns that the data contract tags `pii`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from arro3.core import Array, DataType, fixed_size_list_array

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
        self._numbers = numbers
        self._key = key
        self.dropped = frozenset(name for name, how in manifest.pii.items() if how == "drop")

    def apply(self, columns: dict[str, Array]) -> None:
        """Replace the values of private columns; a missing one stays missing."""
        for name in (self._pii.keys() & columns.keys()) - self.dropped:
            values = columns[name]
            if name in self._numbers:
                columns[name] = _nulls(values)
            else:
                columns[name] = Array(self._texts(name, values.to_pylist()), values.type)

    def _texts(self, name: str, values: Iterable[str | None]) -> list[str | None]:
        if self._pii[name] == "mask":
            return [MASK if value else value for value in values]
        return [pseudonym(self._key, value) if value else value for value in values]


def _nulls(values: Array) -> Array:
    """Return as many nulls of the same type: of a number, or of a vector of them."""
    if not (width := values.type.list_size):
        return Array([None] * len(values), values.type)
    nothing = Array.from_numpy(np.zeros(len(values) * width, np.float32))
    return fixed_size_list_array(nothing, width, mask=Array([True] * len(values), DataType.bool()))


def pseudonym(key: str, value: str) -> str:
    """Return what stands for a value: 128 bits of keyed BLAKE2b (RFC 7693), hexadecimal.

    Equal values have equal pseudonyms in all columns and models, so what knows the key can join.
    """
    short = hashlib.blake2b(key.encode()).digest()
    return hashlib.blake2b(value.encode(), key=short, digest_size=16).hexdigest()
