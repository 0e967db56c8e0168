"""The least that answers V2 JSON: msgspec and ONNX Runtime, nothing checked, nothing kept."""

import msgspec
import numpy as np
import scorer


class Tensor(msgspec.Struct):
    """An input as it arrives."""

    shape: list[int]
    data: list[float]


class Request(msgspec.Struct):
    """A request as it arrives."""

    inputs: list[Tensor]


class Output(msgspec.Struct):
    """The output as it leaves."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Response(msgspec.Struct):
    """A response as it leaves."""

    model_name: str
    outputs: list[Output]


session = scorer.load()
decoder = msgspec.json.Decoder(Request)
encoder = msgspec.json.Encoder()


def answer(body: bytes) -> bytes:
    """Return the response to a request."""
    tensor = decoder.decode(body).inputs[0]
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    scores = session.run([scorer.OUTPUT], {scorer.INPUT: rows})[0].tolist()
    output = Output(scorer.OUTPUT, [len(scores)], "FP32", scores)
    return encoder.encode(Response("mlp", [output]))
