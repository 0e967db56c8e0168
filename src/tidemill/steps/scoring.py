"""Score rows with an exported model, as a server does: ONNX Runtime, one thread, raw columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
from numpy.typing import NDArray

from tidemill.bundle import InputColumn
from tidemill.errors import DataError
from tidemill.steps.formats import readable
from tidemill.steps.inputs import Columns, to_arrays

__all__ = ["OnnxModel"]

BATCH = 8192
"""Rows per call: bounds the memory."""
AGAIN = "tidemill model export, of a bundle tidemill registry fetch NAME/VERSION FOLDER"
DATATYPES = {"tensor(string)": "BYTES", "tensor(float)": "FP32"}


class OnnxModel:
    """A loaded `model.onnx`; raises DataError when the file is none."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        with readable(path, Exception, again=AGAIN):  # ONNX Runtime's share no base but Exception
            self._session = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        self.columns = tuple(
            InputColumn(given.name, DATATYPES[given.type], "")
            for given in self._session.get_inputs()
        )

    def score(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """Return the probability of every row; raises DataError when a column is missing."""
        missing = [c.name for c in self.columns if c.name not in frame.columns]
        if missing:
            raise DataError(f"the model reads columns that are absent: {', '.join(missing)}")
        return self.run(to_arrays(frame, self.columns))

    def run(self, arrays: Columns) -> NDArray[np.float32]:
        """Return the probability of every row of raw columns."""
        size = len(next(iter(arrays.values())))
        parts = [
            self._session.run(None, {n: a[i : i + BATCH] for n, a in arrays.items()})[0]
            for i in range(0, size, BATCH)
        ]
        return np.concatenate(parts)
