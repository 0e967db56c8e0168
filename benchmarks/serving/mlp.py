"""The model and the rows: an MLP 30-256-128-1 with a sigmoid, the same weights for everyone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NAME", "OUTPUT", "SPLIT", "WIDE", "Layout", "expect", "make_rows", "split", "write"]

NAME, OUTPUT = "mlp", "probability"
WIDTHS = (30, 256, 128, 1)
SEED = 11

Layout = Mapping[str, int]
"""Inputs of the graph by name, with the number of features in each: `[N, width]`, `[N]` for 1."""
WIDE: Layout = {"x": WIDTHS[0]}
SPLIT: Layout = {f"x{i}": 1 for i in range(WIDTHS[0])}

Rows = NDArray[np.float32]


def make_rows(count: int) -> Rows:
    """Return `[count, 30]` standard normal numbers, the same in every run."""
    return np.random.default_rng(count).normal(size=(count, WIDTHS[0])).astype(np.float32)


def split(layout: Layout, rows: Rows) -> list[tuple[str, Rows]]:
    """Return the columns of each input of a layout."""
    edges = np.cumsum(list(layout.values()))[:-1]
    return list(zip(layout, np.split(rows, edges, axis=1), strict=True))


def write(path: Path, layout: Layout) -> Path:
    """Write the graph with the inputs of `layout` and the output `[N]`; return `path`."""
    onnx.save(_model(layout), path)
    return path


def _model(layout: Layout) -> onnx.ModelProto:
    nodes, columns = [], []
    for name, width in layout.items():
        column = name if width > 1 else f"{name}_column"
        if width == 1:
            nodes.append(helper.make_node("Unsqueeze", [name, "last_axis"], [column]))
        columns.append(column)
    nodes.append(helper.make_node("Concat", columns, ["layer_0"], axis=1))
    constants: dict[str, NDArray[Any]] = {"last_axis": np.array([1])}
    rng = np.random.default_rng(SEED)
    for i, (wide, narrow) in enumerate(pairwise(WIDTHS)):
        weights = rng.normal(scale=wide**-0.5, size=(wide, narrow))
        constants |= {f"w_{i}": weights.astype(np.float32), f"b_{i}": np.zeros(narrow, np.float32)}
        last = i == len(WIDTHS) - 2
        nodes += [
            helper.make_node("Gemm", [f"layer_{i}", f"w_{i}", f"b_{i}"], [f"sum_{i}"]),
            helper.make_node("Sigmoid" if last else "Relu", [f"sum_{i}"], [f"layer_{i + 1}"]),
        ]
    nodes.append(helper.make_node("Squeeze", [f"layer_{len(WIDTHS) - 1}", "last_axis"], [OUTPUT]))
    graph = helper.make_graph(
        nodes,
        NAME,
        [_tensor(name, ["N", width] if width > 1 else ["N"]) for name, width in layout.items()],
        [_tensor(OUTPUT, ["N"])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def expect(rows: Rows) -> Rows:
    """Return the scores of `rows`, by ONNX Runtime in this process."""
    (scores,) = _session().run([OUTPUT], dict.fromkeys(WIDE, rows))
    return scores  # type: ignore[no-any-return]


@cache
def _session() -> ort.InferenceSession:
    return ort.InferenceSession(_model(WIDE).SerializeToString())


def _tensor(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
