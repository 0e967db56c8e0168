"""Rows of a frame as a request of the Open Inference Protocol, for a bundle to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tidemill.bundle import InputColumn

__all__ = ["request", "sample"]


def sample(frame: pl.DataFrame, rows: int, seed: int) -> pl.DataFrame:
    """Return at most `rows` rows, drawn evenly, in their order."""
    if frame.height <= rows:
        return frame
    return frame.with_row_index("_").sample(rows, seed=seed).sort("_").drop("_")


def request(rows: pl.DataFrame, columns: Sequence[InputColumn]) -> dict[str, Any]:
    """Return rows as a request of the Open Inference Protocol, in which null is missing.

    A column that the rows lack, a private one, is missing in all of them.
    """
    return {
        "inputs": [
            {
                "name": column.name,
                "datatype": column.datatype,
                "shape": [rows.height],
                "data": _values(rows, column),
            }
            for column in columns
        ]
    }


def _values(rows: pl.DataFrame, column: InputColumn) -> list[Any]:
    if column.name not in rows.columns:
        return [None] * rows.height
    values = rows[column.name]
    if column.datatype == "FP32":
        values = values.cast(pl.Float32).fill_nan(None)
    return values.to_list()
