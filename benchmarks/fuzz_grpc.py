"""gRPC's part of the fuzzer: messages, changed in their fields and in their bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from tidemill.server import App
from tidemill.server.operations import STATUS
from tidemill.server.protocol import Rejected
from tidemill.server.rpc.schema import Message, message, parse
from tidemill.server.rpc.service import Method, Service
from tidemill.server.trail import Trail

__all__ = ["Answer", "bodies", "change_fields"]

CODES = STATUS | {"malformed_message": 400}
CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents"}


class Tensors(Protocol):
    """Makes a row, as often as asked, into the tensors of V2 JSON."""

    def __call__(self, row: dict[str, Any], rows: int) -> list[dict[str, Any]]:
        """Return them."""
        ...


class Answer:
    """Answers calls as the endpoint does once their message has arrived."""

    def __init__(self, app: App) -> None:
        methods = Service(app.repository, app.orders, lambda: True).methods
        self._methods: dict[str, Method] = {method.name: method for method in methods}

    async def __call__(self, name: str, body: bytes) -> str:
        """Return the code of a refusal or `ok`; raises what the server must not do."""
        method = self._methods[name]
        try:
            answer = await method.answer(parse(method.request, body), Trail("gRPC", name))
        except Rejected as refusal:
            return _check_refusal(refusal)
        _check(answer)
        return "ok"


def _check_refusal(refusal: Rejected) -> str:
    """Refuse a refusal that is no 4xx of the table, or cannot be told."""
    assert CODES[refusal.code] == refusal.status < 500, refusal.code
    assert len(refusal.message.encode()) < 4000, refusal.message
    return refusal.code


def _check(answer: Message) -> None:
    """Refuse an answer that cannot be sent, or whose scores are not as many as it says."""
    answer.SerializeToString()
    if answer.DESCRIPTOR.name == "ModelInferResponse":
        (output,) = answer.outputs
        raw = sum(map(len, answer.raw_output_contents)) // 4
        assert list(output.shape) == [raw or len(output.contents.fp32_contents)]


def bodies(model: str, tensors: Tensors, *rows: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return good calls by name; ModelInfer, typed and raw, more often than the others."""
    found = []
    for row in rows:
        for raw in (True, False):
            request = message("ModelInferRequest")(model_name=model, id="a")
            for tensor in tensors(row, 2):
                _add(request, tensor, raw=raw)
            found += [("ModelInfer", request.SerializeToString())] * 4
    named = {"ModelReady": "name", "ModelMetadata": "name", "RepositoryModelLoad": "model_name"}
    for name, field in named.items():
        found.append((name, message(f"{name}Request")(**{field: model}).SerializeToString()))
    found.append(("RepositoryIndex", message("RepositoryIndexRequest")().SerializeToString()))
    return found


def _add(request: Message, tensor: dict[str, Any], *, raw: bool) -> None:
    values, datatype = tensor.pop("data"), tensor["datatype"]
    texts = [value.encode() for value in values] if datatype == "BYTES" else []
    made = request.inputs.add(**tensor)
    if not raw:
        getattr(made.contents, CONTENTS[datatype]).extend(texts or values)
    elif texts:
        packed = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        request.raw_input_contents.append(packed)
    else:
        request.raw_input_contents.append(np.float32(values).tobytes())


def change_fields(
    random: Random, name: str, body: bytes, change: Callable[[Random, Any], Any]
) -> bytes:
    """Have `change` change the message as a document; raises ValueError when it cannot be."""
    kind = message(f"{name}Request")
    try:
        document = change(random, MessageToDict(parse(kind, body)))
        made = ParseDict(document, kind(), ignore_unknown_fields=True)
        content: bytes = made.SerializeToString()
    except (Rejected, ParseError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is no message any more") from error
    return content
