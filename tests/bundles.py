"""Small real bundles: an ONNX graph that computes, a manifest, evidence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onnx import TensorProto, helper

from tidemill.bundle import FeatureService, InputColumn, Manifest, write_manifest
from tidemill.steps.gate import seal
from tidemill.testing.models import write_golden_rows, write_profile

DATA = "0123456789abcdef0123456789abcdef.dir"
SHORT = {"flight_id": "f1", "distance": 5.0, "carrier": "UA"}
"""A row for `make_bundle`."""
LONG = SHORT | {"distance": 100.0}
"""A row for which a model has no entry whose `longest` is LONGEST: it fails."""
LONGEST = 10
FEATURES = FeatureService("flight_delay_v1", "flights", "sha256:" + "f" * 64, ())


def model(scale: float, longest: int | None = None) -> bytes:
    """Return an ONNX graph of two raw columns: a number and a string that it ignores.

    It fails for numbers above `longest`, as one does that looks up what it has no entry for.
    """
    inputs = [
        helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("carrier", TensorProto.STRING, ["N"]),
    ]
    output = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])]
    nodes = [
        helper.make_node("Mul", ["distance", "scale"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["probability"]),
    ]
    weights = [helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale])]
    if longest is not None:
        nodes = [
            helper.make_node("IsNaN", ["distance"], ["missing"]),
            helper.make_node("Where", ["missing", "nothing", "distance"], ["asked"]),
            helper.make_node("Cast", ["asked"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["known", "place"], ["factor"]),
            helper.make_node("Mul", ["asked", "factor"], ["scaled"]),
            nodes[-1],
        ]
        entries = [scale] * (longest + 1)
        weights = [
            helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("known", TensorProto.FLOAT, [len(entries)], entries),
        ]
    graph = helper.make_graph(nodes, "g", inputs, output, weights)
    opset = helper.make_opsetid("", 20)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def write_evidence(folder: Path, *, passed: bool = True, override: str = "") -> None:
    """Write the sealed evidence of a gate about the model in `folder`."""
    evidence = {
        "passed": passed,
        "override": {"reason": override} if override else None,
        "model_sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
    }
    (folder / "evidence.json").write_text(json.dumps(seal(evidence)))


def make_bundle(
    folder: Path,
    name: str,
    scale: float = 0.001,
    longest: int | None = None,
    features: FeatureService = FEATURES,
) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model(scale, longest))
    write_evidence(folder)
    (folder / "MODEL_CARD.md").write_text("# a model\n")
    write_profile(folder)
    manifest = Manifest(
        name=name,
        inputs=(
            InputColumn("distance", "FP32", "request"),
            InputColumn("carrier", "BYTES", "request"),
        ),
        output="probability",
        row_id="flight_id",
        features=features,
        prior=0.2,
        lineage={"data_version": DATA, "git_commit": "c" * 40, "seed": "1"},
    )
    write_manifest(folder, manifest)
    write_golden_rows(folder, manifest)
    return folder
