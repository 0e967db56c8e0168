"""T2: score logged inputs again with the model that the registry holds.

The same bytes in must give the same score out. A difference is a fault of code or deployment: the
server runs another model than it says, or changes the inputs after it logged them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl

from tidemill.bundle import Manifest
from tidemill.errors import IntegrityError
from tidemill.steps.inputs import to_arrays

__all__ = ["Rescorer"]

TOLERANCE = 1e-4
"""Largest difference of two scores that count as equal: batch sizes change the last digits."""


class Rescorer:
    """The model of one bundle, loaded once."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(
                bundle / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises bare exceptions of its own
            raise IntegrityError(
                f"the model {bundle / 'model.onnx'} cannot be loaded: {error}"
            ) from error

    def mismatches(self, log: pl.DataFrame) -> tuple[int, int]:
        """Return how many rows were compared, and how many scores differ from the logged ones."""
        missing = [c.name for c in self._manifest.inputs if c.name not in log.columns]
        if missing or log.is_empty():
            return 0, 0
        arrays = to_arrays(log, self._manifest.inputs)
        (scores,) = self._session.run([self._manifest.output], arrays)
        logged = log["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        equal = np.isclose(np.ravel(scores), logged, rtol=0, atol=TOLERANCE, equal_nan=True)
        return log.height, int((~equal).sum())
