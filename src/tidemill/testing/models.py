"""A small real model in a bundle: strings encoded and gaps filled inside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidemill.bundle import (
    FeatureField,
    FeatureService,
    FeatureView,
    InputColumn,
    Manifest,
    write_manifest,
)

__all__ = ["CARRIERS", "MANIFEST", "write_bundle"]

CARRIERS = ("AA", "B6", "UA")
ORIGINS = ("EWR", "JFK", "LGA")
MEANS = {"sched_minute": 800.0, "carrier_late_rate_7d": 0.2, "temp": 55.0, "seats": 140.0}
SLOPES = {"sched_minute": 0.001, "carrier_late_rate_7d": 2.0, "temp": -0.01, "seats": 0.002}
DAY = 86_400

MANIFEST = Manifest(
    name="flight-delay",
    inputs=(
        InputColumn("sched_minute", "FP32", "request"),
        InputColumn("carrier", "BYTES", "request"),
        InputColumn("origin", "BYTES", "request"),
        InputColumn("carrier_late_rate_7d", "FP32", "feature"),
        InputColumn("temp", "FP32", "feature"),
        InputColumn("seats", "FP32", "feature", default=150.0),
    ),
    output="probability",
    row_id="flight_id",
    features=FeatureService(
        name="small_v1",
        project="flights",
        digest="sha256:" + "5" * 64,
        views=(
            FeatureView(
                "carrier_delay",
                ("carrier",),
                (FeatureField("carrier_late_rate_7d", "Float64"),),
                7 * DAY,
            ),
            FeatureView("origin_weather", ("origin",), (FeatureField("temp", "Float64"),), DAY),
            FeatureView("plane", ("tailnum",), (FeatureField("seats", "Int64"),), 0),
        ),
    ),
    prior=0.24,
)
"""Two request columns that are keys, one key that is no input, three views."""


def write_bundle(folder: Path, *, manifest: Manifest = MANIFEST, bias: float = -1.0) -> Path:
    """Write a bundle, unsigned, whose model is a logistic regression; return `folder`.

    The graph has the inputs of `MANIFEST`. `bias` shifts every score: two biases are two versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(bias), folder / "model.onnx")
    write_manifest(folder, manifest)
    return folder


def _graph(bias: float) -> onnx.ModelProto:
    nodes = [node for name in MEANS for node in _number(name)]
    nodes += _category("carrier", CARRIERS) + _category("origin", ORIGINS)
    terms = ["bias", *(f"{name}_term" for name in (*MEANS, "carrier", "origin"))]
    nodes += [
        helper.make_node("Sum", terms, ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = {"bias": bias, "step": 0.1}
    constants |= {f"{name}_mean": value for name, value in MEANS.items()}
    constants |= {f"{name}_slope": value for name, value in SLOPES.items()}
    inputs = [_column(name, TensorProto.FLOAT) for name in MEANS]
    inputs += [_column(name, TensorProto.STRING) for name in ("carrier", "origin")]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [_column("probability", TensorProto.FLOAT)],
        [numpy_helper.from_array(np.float32(v).reshape(()), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _column(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["N"])


def _number(name: str) -> list[onnx.NodeProto]:
    """`(x - mean) * slope`, a missing x being the mean."""
    return [
        helper.make_node("IsNaN", [name], [f"{name}_gap"]),
        helper.make_node("Where", [f"{name}_gap", f"{name}_mean", name], [f"{name}_full"]),
        helper.make_node("Sub", [f"{name}_full", f"{name}_mean"], [f"{name}_centred"]),
        helper.make_node("Mul", [f"{name}_centred", f"{name}_slope"], [f"{name}_term"]),
    ]


def _category(name: str, values: tuple[str, ...]) -> list[onnx.NodeProto]:
    """One step per known value, zero for any other."""
    return [
        helper.make_node(
            "LabelEncoder",
            [name],
            [f"{name}_code"],
            domain="ai.onnx.ml",
            keys_strings=list(values),
            values_int64s=list(range(1, len(values) + 1)),
            default_int64=0,
        ),
        helper.make_node("Cast", [f"{name}_code"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_float", "step"], [f"{name}_term"]),
    ]
