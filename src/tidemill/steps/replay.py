"""T2: score logged inputs again with the model that the registry holds.

The same bytes in must give the same score out. A difference is a fault of code or deployment: the
server runs another model than it says, or changes the inputs after it logged them.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from tidemill.steps.scoring import OnnxModel

__all__ = ["mismatches"]

TOLERANCE = 1e-4
"""Largest difference of two scores that count as equal: batch sizes change the last digits."""


def mismatches(model: OnnxModel, log: pl.DataFrame) -> tuple[int, int]:
    """Return how many logged rows were scored again, and how many scores differ.

    Raises DataError when the log lacks an input, polars' errors when one has another type.
    """
    if log.is_empty():
        return 0, 0
    logged = log["score"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    scores = np.ravel(model.score(log))
    equal = np.isclose(scores, logged, rtol=0, atol=TOLERANCE, equal_nan=True)
    return log.height, int((~equal).sum())
