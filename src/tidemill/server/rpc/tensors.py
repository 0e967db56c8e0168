"""A request's tensors, typed or raw, and its answer in the same form.

Raw contents lie as in the binary tensor extension of REST and take its way. Typed contents take the
way of JSON, whose decoder holds every number to the range of its datatype; so does this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from tidemill.server.inference import Asked, Scored
from tidemill.server.protocol import InferRequest, OutputParameters, Rejected, RequestedOutput
from tidemill.server.rpc.schema import Message, message
from tidemill.server.tensors import FP32_MAX, NAMES, Tensor

__all__ = ["read", "write"]

RESPONSE = message("ModelInferResponse")
MAX_ID = 256
"""Characters, as over REST."""


class _Form(NamedTuple):
    """How a datatype comes in typed contents."""

    kind: Callable[..., Tensor]
    field: str
    low: int = 0
    high: int = 0
    """What the field can hold beyond the datatype is refused; both are 0 where it is no more."""


FIELDS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "FP16": "",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
}
NARROW = {
    "INT8": ("int_contents", -(2**7), 2**7 - 1),
    "INT16": ("int_contents", -(2**15), 2**15 - 1),
    "INT32": ("int_contents", 0, 0),
    "UINT8": ("uint_contents", 0, 2**8 - 1),
    "UINT16": ("uint_contents", 0, 2**16 - 1),
    "UINT32": ("uint_contents", 0, 0),
}
FORMS = {
    name: _Form(kind, *(NARROW[name] if name in NARROW else (FIELDS[name],)))
    for kind, name in NAMES.items()
}
FLOATS = ("fp32_contents", "fp64_contents")


def read(request: Message) -> Asked:
    """Read a ModelInferRequest; raises Rejected."""
    if len(request.id) > MAX_ID:
        raise Rejected(
            "invalid_request",
            f"the id has {len(request.id)} characters, expected at most {MAX_ID}",
        )
    outputs = [_output(output) for output in request.outputs]
    if request.raw_input_contents:
        inputs, raw = _read_raw(request.inputs, request.raw_input_contents)
    else:
        inputs, raw = [_read_typed(tensor) for tensor in request.inputs], {}
    return Asked(InferRequest(inputs, request.id or None, outputs), raw)


def write(scored: Scored) -> Message:
    """Write the answer in the form that the request has."""
    model = scored.model
    response = RESPONSE(model_name=model.name, model_version=model.version, id=scored.request_id)
    for name, value in scored.parameters.items():
        response.parameters[name].string_param = value
    output = response.outputs.add(
        name=model.manifest.output, datatype="FP32", shape=[len(scored.values)]
    )
    if scored.request.inputs[0].data is UNSET:
        response.raw_output_contents.append(scored.scores.astype("<f4", copy=False).tobytes())
    else:
        output.contents.fp32_contents.extend(scored.values)
    return response


def _read_raw(
    tensors: Sequence[Message], contents: Sequence[bytes]
) -> tuple[list[Tensor], dict[str, bytes]]:
    if len(contents) != len(tensors):
        raise Rejected(
            "malformed_binary",
            f"the request has {len(contents)} raw_input_contents for {len(tensors)} inputs, "
            "expected one per input, or none",
        )
    inputs: list[Tensor] = []
    raw: dict[str, bytes] = {}
    for tensor, content in zip(tensors, contents, strict=True):
        if tensor.HasField("contents"):
            raise Rejected(
                "invalid_request",
                f"input '{tensor.name:.80}' has contents in a request with raw_input_contents; "
                "expected one or the other",
            )
        name = tensor.name
        inputs.append(_form(tensor).kind(name=name, shape=tensor.shape[:]))
        raw[name] = content
    return inputs, raw


def _read_typed(tensor: Message) -> Tensor:
    form = _form(tensor)
    return form.kind(name=tensor.name, shape=tensor.shape[:], data=_values(tensor, form))


def _form(tensor: Message) -> _Form:
    form = FORMS.get(tensor.datatype)
    if form is None:
        raise Rejected(
            "invalid_request",
            f"input '{tensor.name:.80}': the datatype '{tensor.datatype:.80}' is not known; known "
            f"datatypes: {', '.join(sorted(FORMS))}",
        )
    return form


def _values(tensor: Message, form: _Form) -> list[Any]:
    """Return typed contents; raises Rejected for those of another datatype."""
    if not form.field:
        raise Rejected(
            "wrong_datatype",
            f"input '{tensor.name:.80}' has datatype {tensor.datatype}, which has no typed "
            "contents; expected raw_input_contents",
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != form.field:
            raise Rejected(
                "wrong_datatype",
                f"input '{tensor.name:.80}' of {tensor.datatype} has {field.name}, expected "
                f"{form.field}",
            )
    values = list(getattr(tensor.contents, form.field))
    if form.field == "bytes_contents":
        return [_text(tensor.name, place, value) for place, value in enumerate(values)]
    if form.field in FLOATS:
        _hold(tensor, values, -FP32_MAX, FP32_MAX, "a number within the range of FP32")
    elif form.high:
        _hold(tensor, values, form.low, form.high, f"{form.low} to {form.high}")
    return values


def _hold(tensor: Message, values: Iterable[float], low: float, high: float, expected: str) -> None:
    """Refuse what is out of range; NaN is missing."""
    for place, value in enumerate(values):
        if value < low or value > high:
            raise Rejected(
                "invalid_request",
                f"the element {place} of input '{tensor.name:.80}' of {tensor.datatype} is "
                f"{value}, expected {expected}",
            )


def _text(name: str, place: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Rejected(
            "malformed_binary",
            f"the element {place} of input '{name:.80}' is not UTF-8: {error.reason} at byte "
            f"{error.start}",
        ) from error


def _output(output: Message) -> RequestedOutput:
    refused = {
        name: True
        for name in ("classification", "shared_memory_region")
        if name in output.parameters
    }
    return RequestedOutput(output.name, OutputParameters(**refused))
