"""What the server tells about itself and its models."""

from __future__ import annotations

from typing import Any

from tidemill import __version__
from tidemill.server.model import Model
from tidemill.server.protocol import encode

__all__ = ["describe_model", "describe_server"]

EXTENSIONS = ["binary_tensor_data", "model_repository"]


def describe_server() -> bytes:
    """Return the protocol's server metadata."""
    return encode({"name": "tidemill", "version": __version__, "extensions": EXTENSIONS})


def describe_model(model: Model, versions: list[str]) -> bytes:
    """Return the protocol's model metadata; `versions` are those that can be asked."""
    manifest = model.manifest
    given = {column.name: column for column in manifest.inputs}
    inputs = [
        _tensor(name, column.datatype, column.origin, column.origin == "feature", column.width)
        for name, column in given.items()
    ]
    inputs += [_tensor(key, "BYTES", "key", True) for key in manifest.entities if key not in given]
    inputs.append(_tensor(manifest.row_id, "BYTES", "row_id", True))
    return encode(
        {
            "name": model.name,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": inputs,
            "outputs": [{"name": manifest.output, "datatype": "FP32", "shape": [-1]}],
            "parameters": {"revision": model.revision, "digest": model.digest},
        }
    )


def _tensor(
    name: str, datatype: str, origin: str, optional: bool, width: int = 1
) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [-1] if width == 1 else [-1, width],
        "parameters": {"origin": origin, "optional": optional},
    }
