"""The binary tensor data extension: values that follow the JSON of a request or an answer.

The header `Inference-Header-Content-Length` says where the JSON ends; the tensors that carry the
parameter `binary_data_size` lie behind it, in the order in which the JSON names them, little-endian
and without padding. An element of BYTES is its length in four bytes, then UTF-8.
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from tidemill.server.protocol import Rejected
from tidemill.server.tensors import DTYPES, NAMES, BoolTensor, BytesTensor, Fp32Tensor, Tensor

__all__ = ["HEADER", "SPELLED", "cut", "header_length", "unpack"]

HEADER = b"inference-header-content-length"
SPELLED = "Inference-Header-Content-Length"
PREFIX = 4
"""Bytes of the length before an element of BYTES."""


def header_length(value: bytes, size: int) -> int:
    """Return how many bytes of a body of `size` are JSON, as the request's header says."""
    # Python refuses to read thousands of digits; the length of no body has as many.
    if not value.isdigit() or len(value) > 20 or int(value) > size:
        raise Rejected(
            "malformed_binary",
            f"the header {SPELLED} is '{value[:40].decode('latin-1')}', expected a number of bytes "
            f"up to the body's {size}",
        )
    return int(value)


def cut(inputs: Sequence[Tensor], tail: bytes) -> dict[str, bytes]:
    """Return the bytes of each binary input; all of the tail must be taken, and no more."""
    found: dict[str, bytes] = {}
    at = 0
    for tensor in inputs:
        if tensor.parameters is UNSET and tensor.data is not UNSET:
            continue
        size = UNSET if tensor.parameters is UNSET else tensor.parameters.binary_data_size
        if (size is UNSET) == (tensor.data is UNSET):
            raise Rejected(
                "invalid_request",
                f"input '{tensor.name:.80}' has {'neither' if size is UNSET else 'both'} 'data' "
                "and the parameter binary_data_size, which announces binary data; expected one",
            )
        if size is UNSET:
            continue
        if at + size > len(tail):
            raise Rejected(
                "malformed_binary",
                f"input '{tensor.name:.80}' announces {size} bytes, only {len(tail) - at} are left "
                f"behind the JSON; its end is where the header {SPELLED} says",
            )
        found[tensor.name] = tail[at : at + size]
        at += size
    if at != len(tail):
        raise Rejected(
            "malformed_binary",
            f"{len(tail) - at} bytes follow the last tensor that announces a binary_data_size",
        )
    return found


def unpack(tensor: Tensor, raw: bytes, rows: int) -> list[str] | NDArray[Any] | bytes:
    """Return the values of a binary input, `[rows]`; those of FP32 as the bytes that they are."""
    if type(tensor) is BytesTensor:
        return _strings(tensor.name, raw, rows)
    dtype = DTYPES[type(tensor)]
    if len(raw) != rows * dtype.itemsize:
        raise Rejected(
            "wrong_length",
            f"input '{tensor.name}' has {len(raw)} bytes, {rows} values of "
            f"{NAMES[type(tensor)]} need {rows * dtype.itemsize}",
        )
    if type(tensor) is Fp32Tensor:
        return raw
    values = np.frombuffer(raw, dtype)
    if type(tensor) is BoolTensor and values.max() > 1:
        raise Rejected(
            "malformed_binary",
            f"input '{tensor.name}' of BOOL holds a byte {values.max()}, expected 0 or 1",
        )
    return values


def _strings(name: str, raw: bytes, rows: int) -> list[str]:
    values = _split(raw) or _scan(name, raw)
    if len(values) != rows:
        raise Rejected(
            "wrong_length", f"input '{name}' has {len(values)} values, its shape needs {rows}"
        )
    return values


def _split(raw: bytes) -> list[str]:
    """Split ASCII elements of one length at their prefix; empty if they are anything else.

    Codes of one length are the rule among categories, and this takes a fifth of the time.
    """
    if not raw.isascii() or len(raw) < PREFIX:
        return []
    text = raw.decode("ascii")
    values = text.split(text[:PREFIX])[1:]
    return values if {int.from_bytes(raw[:PREFIX], "little")} == set(map(len, values)) else []


def _scan(name: str, raw: bytes) -> list[str]:
    values: list[str] = []
    at = 0
    while at < len(raw):
        start = at + PREFIX
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            raise Rejected(
                "malformed_binary",
                f"the element {len(values)} of input '{name}' is cut off: it needs "
                f"{at - len(raw)} bytes more than binary_data_size announces",
            )
        try:
            values.append(raw[start:at].decode())
        except UnicodeDecodeError as error:
            raise Rejected(
                "malformed_binary",
                f"the element {len(values)} of input '{name}' is not UTF-8: {error.reason} at "
                f"byte {error.start}",
            ) from error
    return values
