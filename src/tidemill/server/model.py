"""The model: a verified bundle, loaded into ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import structlog
from numpy.typing import NDArray

from tidemill.bundle import InputColumn, Manifest, digest, read_manifest, revision, verify
from tidemill.errors import IntegrityError

__all__ = ["Model", "default", "load_model"]

log = structlog.get_logger(__name__)

TYPES = {"BYTES": "tensor(string)", "FP32": "tensor(float)"}
UNFIT = "do not serve this bundle; others: tidemill registry list"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked."""

    name: str
    version: str
    digest: str
    manifest: Manifest
    session: ort.InferenceSession
    numbers: tuple[str, ...]
    """Inputs of type FP32, in the manifest's order."""
    texts: tuple[str, ...]
    """Inputs of type BYTES, in the manifest's order."""
    vectors: dict[str, slice]
    """Lanes of each FP32 input; empty when every input is one number wide."""

    @property
    def revision(self) -> str:
        """Short name of the bundle's digest: which bytes answered."""
        return revision(self.digest)

    def predict(
        self, numbers: NDArray[np.float32], texts: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """Return one score per row.

        `numbers` is `[lanes, rows]` and `texts` `[inputs, rows]`, as in a `Batch`.
        """
        feed = (
            self._vectors(numbers)
            if self.vectors
            else dict(zip(self.numbers, numbers, strict=True))
        )
        feed.update(zip(self.texts, texts, strict=True))
        (scores,) = self.session.run([self.manifest.output], feed)
        return scores.reshape(-1)  # type: ignore[no-any-return]

    def _vectors(self, numbers: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {
            name: np.ascontiguousarray(numbers[lanes].T)
            if lanes.stop - lanes.start > 1
            else numbers[lanes.start]
            for name, lanes in self.vectors.items()
        }


def load_model(
    folder: Path, *, version: str, threads: int, name: str = "", public_key: Path | None = None
) -> Model:
    """Verify a bundle, load it and score one row of defaults.

    `public_key` is what the signature must verify with; None switches the verification off, for
    development. Raises IntegrityError with the reason when the bundle must not be served.
    """
    if public_key is None:
        log.warning("VERIFICATION IS OFF: this bundle may be anyone's", bundle=str(folder))
        identity = digest(folder)
    else:
        identity = verify(folder, public_key)
    manifest = read_manifest(folder)
    model = Model(
        name or manifest.name,
        version,
        identity,
        manifest,
        _session(folder, threads),
        manifest.of_type("FP32"),
        manifest.of_type("BYTES"),
        manifest.lanes if any(column.width > 1 for column in manifest.inputs) else {},
    )
    _check_graph(model)
    _warm_up(model)
    return model


def default(column: InputColumn) -> float | str:
    """Return what stands for a missing feature."""
    if column.default is None:
        return "" if column.datatype == "BYTES" else float("nan")
    return column.default


def _session(folder: Path, threads: int) -> ort.InferenceSession:
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The arena keeps the largest batch's memory for good and saves nothing measurable.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise IntegrityError(
            f"{folder}: model.onnx cannot be loaded: {error}", hint=UNFIT
        ) from error


def _check_graph(model: Model) -> None:
    """Refuse a bundle whose manifest and graph disagree, or whose features have no view."""
    graph = {node.name: _spelled(node.type, node.shape[1:]) for node in model.session.get_inputs()}
    wanted = {
        c.name: _spelled(TYPES.get(c.datatype, c.datatype), [c.width] if c.width > 1 else [])
        for c in model.manifest.inputs
    }
    if graph != wanted:
        differing = sorted(n for n in graph | wanted if graph.get(n) != wanted.get(n))
        raise IntegrityError(
            "the manifest and the graph disagree on the inputs: "
            + "; ".join(f"'{n}' is {wanted.get(n)} / {graph.get(n)}" for n in differing),
            hint=UNFIT,
        )
    if odd := [
        c.name
        for c in model.manifest.inputs
        if c.width < 1 or (c.width > 1 and (c.datatype, c.origin) != ("FP32", "request"))
    ]:
        raise IntegrityError(
            f"the inputs {odd} are vectors; only FP32 inputs of the request can be", hint=UNFIT
        )
    outputs = [node.name for node in model.session.get_outputs()]
    if model.manifest.output not in outputs:
        raise IntegrityError(
            f"the graph has outputs {outputs}, no '{model.manifest.output}'", hint=UNFIT
        )
    features = {f.name for view in model.manifest.features.views for f in view.fields}
    if orphans := [
        c.name for c in model.manifest.inputs if c.origin == "feature" and c.name not in features
    ]:
        raise IntegrityError(
            f"no view of the feature service holds the inputs {orphans}", hint=UNFIT
        )


def _spelled(kind: str, beyond: list[int | str]) -> str:
    """Name an input's type and its dimensions beyond the rows; `tensor(float)` is one a row."""
    return kind + "".join(f"[{size}]" for size in beyond)


def _warm_up(model: Model) -> None:
    values = [
        (c.datatype, value) for c in model.manifest.inputs for value in [default(c)] * c.width
    ]
    try:
        scores = model.predict(
            np.array([v for kind, v in values if kind == "FP32"], np.float32).reshape(-1, 1),
            np.array([v for kind, v in values if kind == "BYTES"], np.object_).reshape(-1, 1),
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise IntegrityError(
            f"the model cannot score a row of defaults: {error}", hint=UNFIT
        ) from error
    if scores.shape != (1,) or scores.dtype != np.float32:
        raise IntegrityError(
            f"the output '{model.manifest.output}' of one row has shape {scores.shape} and type "
            f"{scores.dtype}, expected [1] and float32",
            hint=UNFIT,
        )
