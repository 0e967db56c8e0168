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


class _Columns(nn.Module):
    """The model as ONNX calls it: one rank-1 tensor per column."""

    def __init__(self, model: ProbabilityModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, numbers: Sequence[Tensor], codes: Sequence[Tensor]) -> Tensor:
        first = [*numbers, *codes][0]
        empty = first.new_empty((first.shape[0], 0))
        probability: Tensor = self.model(
            torch.stack(list(numbers), 1) if numbers else empty.float(),
            torch.stack(list(codes), 1) if codes else empty.long(),
        )
        return probability


def to_onnx(
    model: ProbabilityModel,
    columns: Sequence[InputColumn],
    vocabulary: Mapping[str, Sequence[str]],
    opset: int,
    lineage: Mapping[str, str],
) -> Any:
    """Return the ONNX ModelProto; its inputs are `columns`, float or string `[N]`."""
    numbers = [column.name for column in columns if column.datatype == "FP32"]
    arguments = (
        [torch.zeros(3) for _ in numbers],
        [torch.zeros(3, dtype=torch.int64) for _ in vocabulary],
    )
    dynamic = ([{0: "N"} for _ in numbers], [{0: "N"} for _ in vocabulary])
    with warnings.catch_warnings():
        for category, message in TORCH_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            program = torch.onnx.export(
                _Columns(model).eval(),
                arguments,
                input_names=[*numbers, *map(_code_name, vocabulary)],
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
    _read_text(proto, vocabulary)
    _order_inputs(proto, columns)
    _clean(proto, lineage)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _code_name(category: str) -> str:
    return f"{category}.code"


def _read_text(proto: Any, vocabulary: Mapping[str, Sequence[str]]) -> None:
    """Put a LabelEncoder before every category: text → code, anything unknown → 0."""
    graph = proto.graph
    for position, (name, known) in enumerate(vocabulary.items()):
        graph.node.insert(
            position,
            helper.make_node(
                "LabelEncoder",
                [name],
                [_code_name(name)],
                name=f"vocabulary.{name}",
                domain="ai.onnx.ml",
                keys_strings=list(known) or [""],
                values_int64s=list(range(1, len(known) + 1)) or [0],
                default_int64=0,
            ),
        )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", TEXT_OPSET))


def _order_inputs(proto: Any, columns: Sequence[InputColumn]) -> None:
    del proto.graph.input[:]
    for column in columns:
        kind = TensorProto.STRING if column.datatype == "BYTES" else TensorProto.FLOAT
        proto.graph.input.append(helper.make_tensor_value_info(column.name, kind, ["N"]))


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
