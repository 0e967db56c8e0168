"""What the server tells about itself and its models."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tidemill import __version__
from tidemill.server.model import Model

__all__ = [
    "Live",
    "ModelMetadata",
    "ModelReady",
    "Ready",
    "ServerMetadata",
    "describe_model",
    "describe_server",
]

EXTENSIONS = ["binary_tensor_data", "model_repository"]


class Live(Struct):
    """The answer of `/v2/health/live`."""

    live: bool


class Ready(Struct):
    """The answer of `/v2/health/ready`."""

    ready: bool


class ModelReady(Struct):
    """The answer of `…/ready` of a model."""

    name: str
    ready: bool


class ServerMetadata(Struct):
    """The protocol's server metadata."""

    name: str
    version: str
    extensions: list[str]


class TensorParameters(Struct):
    """Where an input comes from, and whether a request may leave it out."""

    origin: Literal["request", "feature", "key", "row_id"]
    optional: bool


class InputMetadata(Struct):
    """One input; -1 stands for the rows."""

    name: str
    datatype: str
    shape: list[int]
    parameters: TensorParameters


class OutputMetadata(Struct):
    """One output; -1 stands for the rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelParameters(Struct):
    """Which bytes answer."""

    revision: str
    digest: str


class ModelMetadata(Struct):
    """The protocol's model metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[InputMetadata]
    outputs: list[OutputMetadata]
    parameters: ModelParameters


def describe_server() -> ServerMetadata:
    """Return what the server tells about itself."""
    return ServerMetadata("tidemill", __version__, EXTENSIONS)


def describe_model(model: Model, versions: list[str]) -> ModelMetadata:
    """Return what the server tells about a model; `versions` are those that can be asked."""
    manifest = model.manifest
    given = {column.name for column in manifest.inputs}
    inputs = [
        _input(c.name, c.datatype, c.origin, c.origin == "feature", c.width)
        for c in manifest.inputs
    ]
    inputs += [_input(key, "BYTES", "key", True) for key in manifest.entities if key not in given]
    inputs.append(_input(manifest.row_id, "BYTES", "row_id", True))
    return ModelMetadata(
        model.name,
        versions,
        "onnxruntime_onnx",
        inputs,
        [OutputMetadata(manifest.output, "FP32", [-1])],
        ModelParameters(model.revision, model.digest),
    )


def _input(name: str, datatype: str, origin: str, optional: bool, width: int = 1) -> InputMetadata:
    shape = [-1] if width == 1 else [-1, width]
    return InputMetadata(name, datatype, shape, TensorParameters(origin, optional))  # type: ignore[arg-type]  # the manifest's word
