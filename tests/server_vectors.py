"""A small real model with a vector between two numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidemill.bundle import FeatureService, InputColumn, Manifest, write_manifest
from tidemill.testing.models import MANIFEST, write_profile

WEIGHTS = np.array([0.5, -1.0, 0.25], np.float32)
MANY = Manifest(
    name="flight-delay",
    inputs=(
        InputColumn("before", "FP32", "request"),
        InputColumn("place", "FP32", "request", width=3),
        InputColumn("carrier", "BYTES", "request"),
        InputColumn("after", "FP32", "request"),
    ),
    output="probability",
    row_id="flight_id",
    features=FeatureService("none", "flights", MANIFEST.features.digest, ()),
    prior=0.2,
)
"""A vector between two numbers: lanes must not be confused."""
ALONE = replace(MANY, inputs=(InputColumn("place", "FP32", "request", width=3),))
BEFORE, AFTER = [0.1, 0.2], [0.03, 0.04]
PLACE = [[1.0, 2.0, 4.0], [0.0, -1.0, 8.0]]


def write(folder: Path, manifest: Manifest = MANY) -> Path:
    """Write a bundle that computes `sigmoid(place · WEIGHTS + before - after)`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {column.name for column in manifest.inputs}
    kinds = {"place": ["N", 3]}
    inputs = [
        helper.make_tensor_value_info(
            c.name,
            TensorProto.STRING if c.datatype == "BYTES" else TensorProto.FLOAT,
            kinds.get(c.name, ["N"]),
        )
        for c in manifest.inputs
    ]
    nodes = [helper.make_node("MatMul", ["place", "weights"], ["dot"])]
    last = "dot"
    if "before" in names:
        nodes.append(helper.make_node("Add", ["dot", "before"], ["more"]))
        nodes.append(helper.make_node("Sub", ["more", "after"], ["logit"]))
        last = "logit"
    nodes.append(helper.make_node("Sigmoid", [last], ["probability"]))
    output = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])]
    graph = helper.make_graph(
        nodes, "vectors", inputs, output, [numpy_helper.from_array(WEIGHTS, "weights")]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    write_manifest(folder, manifest)
    write_profile(folder)
    return folder


def tensor(name: str, data: Any, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def asked(place: dict[str, Any]) -> dict[str, Any]:
    others = [tensor("before", BEFORE, [2]), tensor("after", AFTER, [2])]
    return {"inputs": [tensor("carrier", ["UA", "AA"], [2], "BYTES"), *others, place]}


def by_hand(place: Any = PLACE) -> list[float]:
    logit = np.float32(place) @ WEIGHTS + np.float32(BEFORE) - np.float32(AFTER)
    return (1 / (1 + np.exp(-logit))).tolist()
