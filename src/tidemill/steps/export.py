"""Export the trained model as ONNX: raw columns in, probability out, the same bytes every time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import structlog
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tidemill.bundle import InputColumn
from tidemill.errors import StepFailed
from tidemill.files import place
from tidemill.ports.tracking import Tracker
from tidemill.settings.model import ExportSettings
from tidemill.steps.formats import to_json
from tidemill.steps.inputs import OUTPUT, raw_columns
from tidemill.steps.model import ProbabilityModel
from tidemill.steps.parity import Parity, check_parity
from tidemill.steps.train import load_model

__all__ = ["export", "to_onnx"]

log = structlog.get_logger(__name__)

IR_VERSION = 10
NUMBERS, CODES = "numbers", "codes"
"""What the model reads: a matrix of each kind of column."""
TEXT_OPSET = 3
"""Version of `ai.onnx.ml`, where LabelEncoder lives."""
TORCH_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, "# The axis name: N will not be used, since it shares the same shape"),
)
"""What torch says of its own internals, and of all columns having one length, as they must."""


def export(
    training_set: Path,
    trained: Path,
    out: Path,
    settings: ExportSettings,
    *,
    tracker: Tracker,
    lineage: Mapping[str, str],
) -> Parity:
    """Write `model.onnx` and `parity.json` into `out`.

    `lineage` becomes the graph's metadata; keep what differs between runs of the same data and code
    (a run id) out of it, or equal trainings no longer give equal bytes. Raises StepFailed when
    torch cannot export the model, DataError for an input that cannot be read, Unavailable for an
    output that cannot be written.
    """
    model, record = load_model(trained)
    columns = raw_columns(record.settings.inputs)
    graph = to_onnx(model, columns, record.vocabularies, settings.opset, lineage)
    onnx_file = place(out / "model.onnx", graph.SerializeToString(deterministic=True))
    parity = check_parity(training_set, onnx_file, model, record, settings.parity_rows)
    place(out / "parity.json", to_json(asdict(parity)))
    tracker.log_metrics(parity.metrics())
    log.info("exported", **parity.metrics())
    return parity


class _Matrices(nn.Module):
    """The model as torch exports it: without the matrix of which there is no column."""

    def __init__(self, model: ProbabilityModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, numbers: Tensor | None, codes: Tensor | None) -> Tensor:
        there = codes if numbers is None else numbers
        assert there is not None
        empty = there.new_empty((there.shape[0], 0))
        probability: Tensor = self.model(
            empty.float() if numbers is None else numbers,
            empty.long() if codes is None else codes,
        )
        return probability


def to_onnx(
    model: ProbabilityModel,
    columns: Sequence[InputColumn],
    vocabulary: Mapping[str, Sequence[str]],
    opset: int,
    lineage: Mapping[str, str],
) -> Any:
    """Return the ONNX ModelProto; its inputs are `columns`, float or string `[N]`.

    torch exports a model of two matrices, and the columns are put before it here: for as many
    inputs as there are columns its export takes twice the time.
    """
    numbers = [column.name for column in columns if column.datatype == "FP32"]
    arguments = {
        NUMBERS: torch.zeros(3, len(numbers)) if numbers else None,
        CODES: torch.zeros(3, len(vocabulary), dtype=torch.int64) if vocabulary else None,
    }
    dynamic = {name: None if value is None else {0: "N"} for name, value in arguments.items()}
    with warnings.catch_warnings():
        for category, message in TORCH_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            program = torch.onnx.export(
                _Matrices(model).eval(),
                kwargs=arguments,
                input_names=[name for name, value in arguments.items() if value is not None],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise StepFailed(f"torch cannot export the model as ONNX: {error}") from error
    assert program is not None
    proto = program.model_proto
    _read_columns(proto, columns, vocabulary)
    _clean(proto, lineage)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _read_columns(
    proto: Any, columns: Sequence[InputColumn], vocabulary: Mapping[str, Sequence[str]]
) -> None:
    """Let the graph begin with columns: texts become codes, and of each kind a matrix is made."""
    numbers = [column.name for column in columns if column.datatype == "FP32"]
    codes = [f"{name}.code" for name in vocabulary]
    front = [
        *map(_encode, vocabulary, codes, vocabulary.values()),
        *_stack(numbers, NUMBERS),
        *_stack(codes, CODES),
    ]
    graph = proto.graph
    nodes = [*front, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    for column in columns:
        kind = TensorProto.STRING if column.datatype == "BYTES" else TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info(column.name, kind, ["N"]))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", TEXT_OPSET))


def _encode(name: str, code: str, known: Sequence[str]) -> Any:
    """Return the node that gives a known text its code, and anything else 0."""
    return helper.make_node(
        "LabelEncoder",
        [name],
        [code],
        name=f"vocabulary.{name}",
        domain="ai.onnx.ml",
        keys_strings=list(known) or [""],
        values_int64s=list(range(1, len(known) + 1)) or [0],
        default_int64=0,
    )


def _stack(columns: Sequence[str], matrix: str) -> list[Any]:
    """Return the nodes that make `matrix`, `[N, columns]`, of columns `[N]`; none for none."""
    flat, shape, rows = (f"{matrix}.{part}" for part in ("flat", "shape", "rows"))
    nodes = [
        helper.make_node("Concat", columns, [flat], axis=0),
        helper.make_node("Constant", [], [shape], value_ints=[len(columns), -1]),
        helper.make_node("Reshape", [flat, shape], [rows]),
        helper.make_node("Transpose", [rows], [matrix], perm=[1, 0]),
    ]
    return nodes if columns else []


def _clean(proto: Any, lineage: Mapping[str, str]) -> None:
    """Take out what torch tells of this machine (paths, stack traces), put in the lineage."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    graph.name = "tidemill"
    proto.ir_version = IR_VERSION
    for key, value in sorted(lineage.items()):
        proto.metadata_props.add(key=key, value=value)
