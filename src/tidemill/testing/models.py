"""A small real model in a bundle: strings encoded and gaps filled inside the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tidemill.bundle import (
    FeatureField,
    FeatureService,
    FeatureView,
    Golden,
    InputColumn,
    Manifest,
    write_golden,
    write_manifest,
)
from tidemill.domain.profile import FeatureProfile, PerformanceProfile, Profile

__all__ = [
    "MANIFEST",
    "MEANS",
    "PROFILE",
    "SLOPES",
    "VALUES",
    "write_bundle",
    "write_golden_rows",
    "write_profile",
]

VALUES = {"carrier": ("AA", "B6", "UA"), "origin": ("EWR", "JFK", "LGA")}
"""Known values of categories; a value adds 0.1 times its place, from 1; other columns know "A"."""
MEANS = {"sched_minute": 800.0, "carrier_late_rate_7d": 0.2, "temp": 55.0, "seats": 140.0}
"""What replaces a missing number, 0 for others."""
SLOPES = {"sched_minute": 0.001, "carrier_late_rate_7d": 2.0, "temp": -0.01, "seats": 0.002}
"""What a unit above the mean adds to the logit, 0.001 for others."""
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

DECILES = tuple(i / 10 for i in range(1, 10))
PROFILE = Profile(
    rows=1000,
    blocks=10,
    block_hours=24,
    start="2013-01-01 00:00:00",
    end="2013-03-31 00:00:00",
    features=(),
    score=FeatureProfile(
        name="score",
        kind="numeric",
        edges=DECILES,
        categories=(),
        known=(),
        counts=(*[100] * 10, 0),
        psi_max=0.1,
        null_max=0.0,
        jump_max=0.0,
        importance=0.0,
    ),
    performance=PerformanceProfile(
        calibration=((0.0, 1.0), (0.0, 1.0)),
        pool_days=7,
        pools=0,
        mean=(0.0, 0.0, 0.0),
        sd=(0.0, 0.0, 0.0),
        auc=0.7,
        logloss=0.5,
        rate=0.24,
    ),
)


def write_bundle(folder: Path, *, manifest: Manifest = MANIFEST, bias: float = -1.0) -> Path:
    """Write a bundle, unsigned, whose model is a logistic regression; return `folder`.

    The graph has the manifest's inputs. `bias` shifts every score: two biases are two versions. The
    profile knows the scores alone. It has two golden rows, which ONNX Runtime scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(manifest, bias), folder / "model.onnx")
    write_manifest(folder, manifest)
    write_profile(folder)
    write_golden_rows(folder, manifest)
    return folder


def write_profile(folder: Path) -> None:
    """Write a reference profile that knows a model's scores and nothing else."""
    (folder / "profile.json").write_text(json.dumps(asdict(PROFILE)))


def write_golden_rows(folder: Path, manifest: Manifest, *, off: float = 0.0) -> None:
    """Score a usual row and one of which nothing is known, and write both with their scores.

    `off` is added to the second score: not 0, it is not what the model says.
    """
    request = {"inputs": [_golden_tensor(column) for column in manifest.inputs]}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path, providers = folder / "model.onnx", ["CPUExecutionProvider"]
    session = ort.InferenceSession(path, options, providers=providers)
    feed = {tensor["name"]: _array(tensor) for tensor in request["inputs"]}
    usual, unknown = session.run([manifest.output], feed)[0].reshape(-1).tolist()
    rows = ("usual", "nothing known")
    write_golden(folder, Golden(request, rows, (usual, unknown + off), tolerance=1e-5))


def _golden_tensor(column: InputColumn) -> dict[str, Any]:
    known = (
        VALUES.get(column.name, ("A",))[0]
        if column.datatype == "BYTES"
        else MEANS.get(column.name, 0.0)
    )
    data = [known] * column.width + [None] * column.width
    shape = [2, column.width] if column.width > 1 else [2]
    return {"name": column.name, "datatype": column.datatype, "shape": shape, "data": data}


def _array(tensor: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return a tensor as the graph takes it: null is NaN or the empty string."""
    if tensor["datatype"] == "BYTES":
        return np.array([value or "" for value in tensor["data"]], np.object_)
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def _graph(manifest: Manifest, bias: float) -> onnx.ModelProto:
    numbers, texts = manifest.of_type("FP32"), manifest.of_type("BYTES")
    widths = {column.name: column.width for column in manifest.inputs}
    nodes = [node for name in numbers for node in _number(name, widths[name])]
    nodes += [node for name in texts for node in _category(name, VALUES.get(name, ("A",)))]
    nodes += [
        helper.make_node("Sum", ["bias", *(f"{n}_term" for n in (*numbers, *texts))], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], [manifest.output]),
    ]
    constants = {"bias": bias, "step": 0.1}
    constants |= {f"{name}_mean": MEANS.get(name, 0.0) for name in numbers}
    constants |= {f"{name}_slope": SLOPES.get(name, 0.001) for name in numbers}
    inputs = [_column(name, TensorProto.FLOAT, widths[name]) for name in numbers]
    inputs += [_column(name, TensorProto.STRING) for name in texts]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [_column(manifest.output, TensorProto.FLOAT)],
        [
            numpy_helper.from_array(np.array([1]), "lanes"),
            *(numpy_helper.from_array(np.float32(v).reshape(()), k) for k, v in constants.items()),
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _column(name: str, kind: int, width: int = 1) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["N", width] if width > 1 else ["N"])


def _number(name: str, width: int) -> list[onnx.NodeProto]:
    """`(x - mean) * slope`, a missing x being the mean; a vector's lanes are added up."""
    term = f"{name}_term"
    lanes = f"{name}_lanes" if width > 1 else term
    added = [helper.make_node("ReduceSum", [lanes, "lanes"], [term], keepdims=0)]
    return [
        helper.make_node("IsNaN", [name], [f"{name}_gap"]),
        helper.make_node("Where", [f"{name}_gap", f"{name}_mean", name], [f"{name}_full"]),
        helper.make_node("Sub", [f"{name}_full", f"{name}_mean"], [f"{name}_centred"]),
        helper.make_node("Mul", [f"{name}_centred", f"{name}_slope"], [lanes]),
        *(added if width > 1 else []),
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
