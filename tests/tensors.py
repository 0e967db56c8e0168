"""Bodies of the binary tensor data extension, written by hand: header, then values."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

WIDTHS = {
    "BOOL": "?",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return one tensor's bytes."""
    if datatype != "BYTES":
        return np.array(values, WIDTHS[datatype]).tobytes()
    elements = [x if isinstance(x, bytes) else x.encode() for x in values]
    return b"".join(struct.pack("<I", len(x)) + x for x in elements)


def binary(inputs: list[dict[str, Any]], **more: Any) -> tuple[bytes, bytes]:
    """Return the JSON and what follows it; inputs with `raw` in place of `data` go behind it."""
    head = [
        {k: v for k, v in x.items() if k != "raw"}
        | ({"parameters": {"binary_data_size": len(x["raw"])}} if "raw" in x else {})
        for x in inputs
    ]
    tail = b"".join(x.get("raw", b"") for x in inputs)
    return json.dumps({"inputs": head} | more).encode(), tail


def as_raw(tensor: dict[str, Any]) -> dict[str, Any]:
    """Return an input with its data as bytes; a missing number is NaN, a missing string empty."""
    text = tensor["datatype"] == "BYTES"
    data = [("" if text else np.nan) if x is None else x for x in tensor["data"]]
    made = {k: v for k, v in tensor.items() if k != "data"}
    return made | {"raw": packed(tensor["datatype"], data)}
