"""How Feast 0.67 encodes entity keys and values online (entity key serialisation version 3).

Written by hand so that the server needs neither Feast nor protobuf; the tests hold every function
to Feast's own encoder.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tidemill.errors import DataError
from tidemill.ports.features import Value

__all__ = ["decode", "decode_instant", "entity_key"]

STRING, INT64 = 2, 4
"""Feast's value types of entity keys."""


def entity_key(keys: Mapping[str, str | int]) -> bytes:
    """Serialise an entity key: the count, the sorted names, then type, length and bytes of each."""
    names = sorted(keys)
    parts = [struct.pack("<I", len(names))]
    for name in names:
        encoded = name.encode()
        parts.append(struct.pack("<II", STRING, len(encoded)) + encoded)
    for name in names:
        value = keys[name]
        if isinstance(value, str):
            encoded = value.encode()
            parts.append(struct.pack("<II", STRING, len(encoded)) + encoded)
        else:
            parts.append(struct.pack("<IIq", INT64, 8, value))
    return b"".join(parts)


def decode(content: bytes) -> Value:
    """Decode a `feast.types.Value` message that holds one scalar; empty is null."""
    if not content or content[0] == 0x98:  # field 19: null
        return None
    tag = content[0]
    if tag == 0x29:  # double
        return float(struct.unpack_from("<d", content, 1)[0])
    if tag == 0x12:  # string
        length, at = _varint(content, 1)
        return content[at : at + length].decode()
    if tag in (0x18, 0x20):  # int32, int64
        return _signed(_varint(content, 1)[0])
    if tag == 0x35:  # float
        return float(struct.unpack_from("<f", content, 1)[0])
    if tag == 0x38:  # bool
        return bool(content[1])
    raise DataError(
        f"the online store holds a value of unknown type (tag {tag:#x})",
        hint="another Feast wrote it; write it again: tidemill features materialize --replace",
    )


def decode_instant(content: bytes) -> float:
    """Decode a protobuf `Timestamp` to seconds since 1970 UTC."""
    seconds, nanos, at = 0, 0, 0
    while at < len(content):
        tag = content[at]
        number, at = _varint(content, at + 1)
        if tag == 0x08:
            seconds = _signed(number)
        else:
            nanos = _signed(number)
    return seconds + nanos / 1e9


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a base-128 number; return it and the offset after it."""
    number = shift = 0
    while True:
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
