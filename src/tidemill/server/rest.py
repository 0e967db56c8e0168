"""The protocol over REST: a request's body, JSON alone or with binary values, and its answer."""

from __future__ import annotations

from msgspec import UNSET, Struct

from tidemill.server.binary import cut
from tidemill.server.inference import Asked, Scored
from tidemill.server.protocol import InferRequest, InferResponse, OutputTensor, decode, encode
from tidemill.server.skimming import LARGE, skim
from tidemill.server.tensors import Size

__all__ = ["Answer", "read", "write"]


class Answer(Struct, gc=False):
    """The body of an answer."""

    body: bytes
    json_size: int | None
    """How many of its bytes are JSON, binary values follow; None if all are."""


def read(body: bytes, json_size: int | None) -> Asked:
    """Read a body of which `json_size` bytes are JSON, None if all are; raises Rejected."""
    text, tail = (body, b"") if json_size is None else (body[:json_size], body[json_size:])
    request = (skim(text) if len(text) >= LARGE else None) or decode(text)
    return Asked(request, cut(request.inputs, tail))


def write(scored: Scored) -> Answer:
    """Write the answer in the form that the request asks for."""
    model = scored.model
    output = OutputTensor(model.manifest.output, "FP32", [len(scored.values)])
    response = InferResponse(
        model.name, model.version, scored.request_id, scored.parameters, [output]
    )
    if not _wants_binary(scored.request):
        output.data = scored.values
        return Answer(encode(response), None)
    tail = scored.scores.astype("<f4", copy=False).tobytes()
    output.parameters = Size(len(tail))
    head = encode(response)
    return Answer(head + tail, len(head))


def _wants_binary(request: InferRequest) -> bool:
    """Return what the selected output says, or the request for all outputs."""
    if request.outputs:
        chosen = request.outputs[0].parameters.binary_data
        if chosen is not UNSET:
            return chosen
    return request.parameters.binary_data_output
