"""Open Inference Protocol V2 over REST: what is read, what is written, how a refusal looks.

https://github.com/kserve/open-inference-protocol. What follows the JSON in a binary request is read
in `binary`. JSON has no NaN: a missing value is `null`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tidemill.errors import DataError
from tidemill.server.tensors import NAMES, Size, Tensor

__all__ = [
    "NONE",
    "InferRequest",
    "InferResponse",
    "OutputTensor",
    "Rejected",
    "RequestedOutput",
    "decode",
    "encode",
]

NONE: Mapping[bytes, bytes] = MappingProxyType({})


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


class OutputParameters(Struct, frozen=True, gc=False):
    """Parameters of a selected output that are known; others are ignored."""

    binary_data: bool | UnsetType = UNSET
    classification: Any = UNSET
    shared_memory_region: Any = UNSET


class RequestParameters(Struct, frozen=True, gc=False):
    """Parameters of a request that are known; others are ignored."""

    binary_data_output: bool = False


class RequestedOutput(Struct, forbid_unknown_fields=True, gc=False):
    """An output that the caller selects."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST …/infer`."""

    inputs: list[Tensor]
    id: Annotated[str, Meta(max_length=256)] | None = None
    outputs: list[RequestedOutput] = []
    parameters: RequestParameters = RequestParameters()
    model_name: str = ""
    """Not in the protocol, and not used: KServe's client repeats here the model of the path."""


class OutputTensor(Struct, gc=False):
    """One output of a response."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Size | UnsetType = UNSET
    data: list[float] | UnsetType = UNSET
    """Absent where the values follow the JSON."""


class InferResponse(Struct, gc=False):
    """The answer to `POST …/infer`."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str]
    outputs: list[OutputTensor]


_decoder = msgspec.json.Decoder(InferRequest)
encode = msgspec.json.Encoder().encode


def decode(body: bytes) -> InferRequest:
    """Read an inference request; raises Rejected that says what was expected and where."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Rejected("invalid_request", _explain(str(error), body)) from error
    except RecursionError as error:
        raise Rejected("malformed_json", "the body is nested too deeply") from error
    except ValueError as error:  # msgspec.DecodeError, UnicodeDecodeError
        raise Rejected(
            "malformed_json", f"the body is no JSON document: {error}; a missing number is null"
        ) from error


def _explain(problem: str, body: bytes) -> str:
    """Add to a message of msgspec the name of the input that its path points at."""
    if problem.startswith("Invalid value") and problem.endswith(".datatype`"):
        problem += f"; known datatypes: {', '.join(sorted(NAMES.values()))}"
    if found := re.search(r"\$\.inputs\[(\d+)\]", problem):
        return f"{_input(body, int(found[1]))}{problem}"
    return problem


def _input(body: bytes, index: int) -> str:
    try:
        name = msgspec.json.decode(body)["inputs"][index]["name"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return f"input '{name:.80}': " if isinstance(name, str) else ""
