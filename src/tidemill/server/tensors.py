"""Input tensors of the Open Inference Protocol V2, one type per datatype.

msgspec checks every element of a JSON tensor against its type while it decodes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = [
    "DTYPES",
    "FP32_MAX",
    "NAMES",
    "BytesTensor",
    "Fp16Tensor",
    "Fp32",
    "Fp32Tensor",
    "Int64",
    "Int64Tensor",
    "Numbers",
    "OtherTensor",
    "Size",
    "Tensor",
    "UInt64Tensor",
]

FP32_MAX = 3.4028234663852886e38

Fp32 = Annotated[float, Meta(ge=-FP32_MAX, le=FP32_MAX)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Numbers = list[Fp32 | list[Fp32 | None] | None]
"""Flat, or nested as `[N, width]`; null is missing."""
T = TypeVar("T")


class Size(Struct, gc=False):
    """Parameters of an input that are known; others are ignored."""

    binary_data_size: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class _Tensor(
    Struct, Generic[T], tag_field="datatype", forbid_unknown_fields=True, kw_only=True, gc=False
):
    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    parameters: Size | UnsetType = UNSET
    data: list[T | list[T | None] | None] | UnsetType = UNSET
    """Flat, or nested as `[N, 1]`; absent where the values follow the JSON."""


class BytesTensor(_Tensor[str], tag="BYTES", gc=False):
    """Strings."""


class BoolTensor(_Tensor[bool], tag="BOOL", gc=False):
    """Truth values: 0 and 1 to a model."""


class Fp16Tensor(_Tensor[Any], tag="FP16", gc=False):
    """Half precision; the protocol has no JSON form of it."""


class Fp32Tensor(_Tensor[Fp32], tag="FP32", gc=False):
    """Single precision, what a model's numbers are."""


class Fp64Tensor(_Tensor[Fp32], tag="FP64", gc=False):
    """Double precision, held to the range of FP32 and rounded to it."""


class Int8Tensor(_Tensor[Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)]], tag="INT8", gc=False):
    """Whole numbers of 8 bits."""


class Int16Tensor(_Tensor[Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)]], tag="INT16", gc=False):
    """Whole numbers of 16 bits."""


class Int32Tensor(_Tensor[Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]], tag="INT32", gc=False):
    """Whole numbers of 32 bits."""


class Int64Tensor(_Tensor[Int64], tag="INT64", gc=False):
    """Whole numbers of 64 bits; entity keys too."""


class UInt8Tensor(_Tensor[Annotated[int, Meta(ge=0, le=2**8 - 1)]], tag="UINT8", gc=False):
    """Whole numbers of 8 bits, none negative."""


class UInt16Tensor(_Tensor[Annotated[int, Meta(ge=0, le=2**16 - 1)]], tag="UINT16", gc=False):
    """Whole numbers of 16 bits, none negative."""


class UInt32Tensor(_Tensor[Annotated[int, Meta(ge=0, le=2**32 - 1)]], tag="UINT32", gc=False):
    """Whole numbers of 32 bits, none negative."""


class UInt64Tensor(_Tensor[Annotated[int, Meta(ge=0)]], tag="UINT64", gc=False):
    """Whole numbers of 64 bits, none negative; msgspec has no such upper bound to check."""


OtherTensor = (
    BytesTensor
    | BoolTensor
    | Fp16Tensor
    | Int8Tensor
    | Int16Tensor
    | Int32Tensor
    | Int64Tensor
    | UInt8Tensor
    | UInt16Tensor
    | UInt32Tensor
    | UInt64Tensor
)
Tensor = Fp32Tensor | Fp64Tensor | OtherTensor

DTYPES: dict[type, np.dtype[Any]] = {
    Fp32Tensor: np.dtype("<f4"),
    Fp64Tensor: np.dtype("<f8"),
    Fp16Tensor: np.dtype("<f2"),
    BoolTensor: np.dtype("u1"),
    Int8Tensor: np.dtype("i1"),
    Int16Tensor: np.dtype("<i2"),
    Int32Tensor: np.dtype("<i4"),
    Int64Tensor: np.dtype("<i8"),
    UInt8Tensor: np.dtype("u1"),
    UInt16Tensor: np.dtype("<u2"),
    UInt32Tensor: np.dtype("<u4"),
    UInt64Tensor: np.dtype("<u8"),
}
"""Numeric tensors, and how their elements lie in a binary request."""

NAMES: dict[type, str] = {
    kind: str(kind.__struct_config__.tag)  # type: ignore[attr-defined]
    for kind in (*DTYPES, BytesTensor)
}
"""The protocol's names of the types."""
