"""gRPC's part of the fuzzer: messages, changed in their fields and in their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from tempfile import gettempdir
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from tidemill.server import App
from tidemill.server.operations import STATUS
from tidemill.server.protocol import Rejected
from tidemill.server.rpc.schema import Message, message, parse
from tidemill.server.rpc.service import Method, Service
from tidemill.server.rpc.tensors import FORMS
from tidemill.server.tensors import DTYPES, NAMES
from tidemill.server.trail import Trail

__all__ = ["NUMBERS", "Answer", "bodies", "change_fields", "check_words", "packed"]

CODES = STATUS | {"malformed_message": 400}
NUMBERS = {NAMES[kind]: dtype for kind, dtype in DTYPES.items()}
SECRETS = ("Traceback", "site-packages", ".py", gettempdir())
"""What tells a client of the machine; no input holds it."""


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
    check_words(refusal.message)
    return refusal.code


def check_words(told: str) -> None:
    """Refuse a message that tells of the machine."""
    assert not any(secret in told for secret in SECRETS), told


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return a tensor's bytes, as the binary extension and gRPC's raw contents have them."""
    if datatype != "BYTES":
        return np.array(values, NUMBERS[datatype]).tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text.encode() for text in values)


def _check(answer: Message) -> None:
    """Refuse an answer that cannot be sent, or whose scores are not as many as it says."""
    answer.SerializeToString()
    if answer.DESCRIPTOR.name == "ModelInferResponse":
        (output,) = answer.outputs
        raw = sum(map(len, answer.raw_output_contents)) // 4
        assert list(output.shape) == [raw or len(output.contents.fp32_contents)]


def bodies(model: str, inputs: Iterable[list[dict[str, Any]]]) -> list[tuple[str, bytes]]:
    """Return good calls by name; one ModelInfer, typed and raw, of each request's tensors."""
    found = []
    for tensors in inputs:
        typed = all(FORMS[tensor["datatype"]].field for tensor in tensors)  # FP16 comes raw alone
        for raw in (True, False)[: 1 + typed]:
            request = message("ModelInferRequest")(model_name=model, id="a")
            for tensor in tensors:
                _add(request, tensor, raw=raw)
            found.append(("ModelInfer", request.SerializeToString()))
    named = {"ModelReady": "name", "ModelMetadata": "name", "RepositoryModelLoad": "model_name"}
    for name, field in named.items():
        found.append((name, message(f"{name}Request")(**{field: model}).SerializeToString()))
    found.append(("RepositoryIndex", message("RepositoryIndexRequest")().SerializeToString()))
    return found


def _add(request: Message, tensor: dict[str, Any], *, raw: bool) -> None:
    values, datatype = tensor["data"], tensor["datatype"]
    made = request.inputs.add(name=tensor["name"], shape=tensor["shape"], datatype=datatype)
    field = FORMS[datatype].field
    if raw:
        request.raw_input_contents.append(packed(datatype, values))
    else:
        texts = [value.encode() for value in values] if datatype == "BYTES" else []
        getattr(made.contents, field).extend(texts or values)


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
