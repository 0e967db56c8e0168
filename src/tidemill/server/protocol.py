"""Open Inference Protocol V2 over REST: what is read, what is written, how a refusal looks.

https://github.com/kserve/open-inference-protocol. JSON alone: the binary tensor extension is
refused with a reason. JSON has no NaN: a missing value is `null`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tidemill.errors import DataError

__all__ = [
    "FP32_MAX",
    "BytesTensor",
    "Fp32Tensor",
    "InferRequest",
    "InferResponse",
    "Int64Tensor",
    "OutputTensor",
    "Rejected",
    "RequestedOutput",
    "Tensor",
    "datatype",
    "decode",
    "encode",
]

NONE: Mapping[bytes, bytes] = MappingProxyType({})
DATATYPES = "BYTES, FP32, INT64"
FP32_MAX = 3.4028234663852886e38

Fp32 = Annotated[float, Meta(ge=-FP32_MAX, le=FP32_MAX)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Rejected(DataError):
    """A request that is refused: HTTP status, stable code, what was expected and found."""

    def __init__(
        self, code: str, message: str, status: int = 400, headers: Mapping[bytes, bytes] = NONE
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.headers = headers

    def body(self) -> bytes:
        """Return the protocol's error document."""
        return encode({"error": self.message, "code": self.code})


class _Tensor(Struct, tag_field="datatype", forbid_unknown_fields=True, kw_only=True, gc=False):
    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    parameters: dict[str, Any] = {}


class BytesTensor(_Tensor, tag="BYTES", gc=False):
    """Strings; flat, or nested as `[N, 1]`."""

    data: list[str | list[str | None] | None]


class Fp32Tensor(_Tensor, tag="FP32", gc=False):
    """Numbers; flat, or nested as `[N, 1]`."""

    data: list[Fp32 | list[Fp32 | None] | None]


class Int64Tensor(_Tensor, tag="INT64", gc=False):
    """Whole numbers: entity keys alone; no input of a model has this type."""

    data: list[Int64 | list[Int64 | None] | None]


Tensor = BytesTensor | Fp32Tensor | Int64Tensor


class RequestedOutput(Struct, forbid_unknown_fields=True, gc=False):
    """An output that the caller selects."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST …/infer`."""

    inputs: list[Tensor]
    id: Annotated[str, Meta(max_length=256)] | None = None
    outputs: list[RequestedOutput] = []
    parameters: dict[str, Any] = {}


class OutputTensor(Struct, gc=False):
    """One output of a response."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferResponse(Struct, gc=False):
    """The answer to `POST …/infer`."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str]
    outputs: list[OutputTensor]


_decoder = msgspec.json.Decoder(InferRequest)
encode = msgspec.json.Encoder().encode


def datatype(tensor: Tensor) -> str:
    """Return the protocol's name of a tensor's type."""
    return str(tensor.__struct_config__.tag)


def decode(body: bytes) -> InferRequest:
    """Read an inference request; raises Rejected that says what was expected and where."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Rejected("invalid_request", _explain(str(error), body)) from error
    except RecursionError as error:
        raise Rejected("malformed_json", "the body is nested too deeply") from error
    except ValueError as error:  # msgspec.DecodeError, UnicodeDecodeError
        raise Rejected(
            "malformed_json", f"the body is no JSON document: {error}; a missing number is null"
        ) from error
    if request.parameters.get("binary_data_output") or any(
        output.parameters.get("binary_data") for output in request.outputs
    ):
        raise Rejected("unsupported", "binary outputs are not supported; outputs are JSON")
    return request


def _explain(problem: str, body: bytes) -> str:
    """Add to a message of msgspec the name of the input that its path points at."""
    if problem.startswith("Invalid value") and problem.endswith(".datatype`"):
        problem += f"; known datatypes: {DATATYPES}"
    elif "unknown field `binary" in problem or "`data` - at `$.inputs" in problem:
        problem += "; tensors are sent as JSON in 'data', the binary extension is not supported"
    if found := re.search(r"\$\.inputs\[(\d+)\]", problem):
        return f"{_input(body, int(found[1]))}{problem}"
    return problem


def _input(body: bytes, index: int) -> str:
    try:
        name = msgspec.json.decode(body)["inputs"][index]["name"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return f"input '{name:.80}': " if isinstance(name, str) else ""
