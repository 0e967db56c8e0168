"""Calls of the gRPC service in this process: its handlers, and a context that stands for gRPC's."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import numpy as np
from tests.server_app import FULL, Running
from tests.server_app import request as rest_request
from tests.tensors import as_raw

from tidemill.server.rpc.calls import Calls
from tidemill.server.rpc.schema import SERVICE, message
from tidemill.server.rpc.service import Service

Details = namedtuple("Details", ["method"])
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Aborted(Exception):
    """gRPC ends a call's handler with an exception too."""


@dataclass
class Context:
    """Implements what the handlers use of grpc.aio.ServicerContext; `silent` sends no message."""

    sent: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    status: Any = grpc.StatusCode.OK
    details: str = ""
    trailing: dict[str, str] = field(default_factory=dict)

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return tuple(self.metadata.items())

    async def read(self) -> bytes:
        if self.silent:
            await asyncio.Event().wait()
        return self.sent

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = dict(metadata)

    async def abort(self, code: Any, details: str, trailing_metadata: Any) -> None:
        self.status, self.details, self.trailing = code, details, dict(trailing_metadata)
        raise Aborted


class Answer(NamedTuple):
    """How a call ended."""

    status: str
    details: str
    trailing: dict[str, str]
    message: Any
    """None unless the status is OK."""

    @property
    def code(self) -> str:
        assert self.details.startswith(self.trailing["error-code"] + ": ")
        return self.trailing["error-code"]

    @property
    def scores(self) -> list[float]:
        (output,) = self.message.outputs
        assert (output.name, output.datatype) == ("probability", "FP32")
        if self.message.raw_output_contents:
            (raw,) = self.message.raw_output_contents
            values = np.frombuffer(raw, "<f4").tolist()
        else:
            values = list(output.contents.fp32_contents)
        assert list(output.shape) == [len(values)]
        return values


class Client:
    """Calls the service of an application that runs in this process."""

    def __init__(self, served: Running, calls: Calls | None = None) -> None:
        app = served.app
        service = Service(app.repository, app.orders, lambda: app.ready and not app.draining)
        self.calls = calls or Calls(service.methods, app)

    def call(self, name: str, sent: Any = b"", **metadata: str) -> Answer:
        content = sent if isinstance(sent, bytes) else sent.SerializeToString()
        return asyncio.run(self.run(name, Context(content, metadata)))

    async def run(self, name: str, context: Context) -> Answer:
        handler = self.calls.service(Details(f"/{SERVICE}/{name}"))
        assert handler.request_streaming
        assert not handler.response_streaming
        try:
            answer = await handler.stream_unary(None, context)
        except Aborted:
            return Answer(context.status.name, context.details, context.trailing, None)
        return Answer("OK", "", context.trailing, message(f"{name}Response").FromString(answer))

    def infer(self, inputs: Sequence[dict[str, Any]], **more: Any) -> Answer:
        return self.call("ModelInfer", request(inputs, **more))


def inputs(row: dict[str, Any] = FULL, rows: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Typed inputs, the last of them (seats) changed."""
    made = rest_request(row, rows)["inputs"]
    return [*made[:-1], made[-1] | changes]


def raw(row: dict[str, Any] = FULL, rows: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Raw inputs, the last of them (seats) changed."""
    made = [as_raw(x) for x in rest_request(row, rows)["inputs"]]
    return [*made[:-1], made[-1] | changes]


def request(inputs: Sequence[dict[str, Any]], **more: Any) -> Any:
    """Return a ModelInferRequest from inputs as `server_app.request` or `tensors.as_raw` makes."""
    made = message("ModelInferRequest")(**{"model_name": "flight-delay"} | more)
    for tensor in inputs:
        added = made.inputs.add(
            name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
        )
        if "raw" in tensor:
            made.raw_input_contents.append(tensor["raw"])
        if "data" in tensor:
            fill(added, tensor["data"])
    return made


def fill(tensor: Any, data: Sequence[Any], name: str = "") -> None:
    """Add typed contents; a missing number is NaN, a missing string empty."""
    field = name or FIELDS[tensor.datatype]
    values = getattr(tensor.contents, field)
    if field == "bytes_contents":
        data = [x if isinstance(x, bytes) else (x or "").encode() for x in data]
    elif field in ("fp32_contents", "fp64_contents"):
        data = [float("nan") if x is None else x for x in data]
    tensor.contents.SetInParent()
    values.extend(data)


def named(name: str, **more: Any) -> Any:
    """Make a call's request that names the model."""
    field = "model_name" if name.startswith("Repository") else "name"
    return message(f"{name}Request")(**{field: "flight-delay"} | more)
