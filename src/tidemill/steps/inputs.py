"""The raw columns of a model: one list for the training set, the graph and the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.bundle import FeatureService, InputColumn
from tidemill.errors import ConfigError
from tidemill.settings.model import ModelInput

__all__ = [
    "OUTPUT",
    "UNKNOWN",
    "Columns",
    "category_columns",
    "number_columns",
    "raw_columns",
    "to_arrays",
    "unserved",
]

OUTPUT = "probability"
"""Name of the graph's only output: float32 `[N]`."""
UNKNOWN = "\N{REPLACEMENT CHARACTER} never seen"
"""A category that no training set holds."""

Columns = dict[str, NDArray[np.generic]]
"""Raw columns by name, rank 1: float32 with NaN for missing, or str with "" for missing."""


def raw_columns(inputs: Sequence[ModelInput]) -> tuple[InputColumn, ...]:
    """Return the columns that the graph reads, in the order of the settings, subtracted ones last.

    Raises ConfigError when one column is declared in two ways.
    """
    found: dict[str, InputColumn] = {}
    declared = [(i.name, "BYTES" if i.encoding == "category" else "FP32", i.origin) for i in inputs]
    named = {name for name, _, _ in declared}
    declared += [(i.minus, "FP32", "feature") for i in inputs if i.minus and i.minus not in named]
    for name, datatype, origin in declared:
        column = InputColumn(name, datatype, origin)
        if found.setdefault(name, column) != column:
            raise ConfigError(
                f"training.inputs declares '{name}' twice, with another type or origin",
                hint="give both entries the same origin, and never mix category with numbers",
            )
    return tuple(found.values())


def unserved(inputs: Sequence[ModelInput], service: FeatureService) -> list[str]:
    """Return what `inputs` takes from the feature service and it lacks, one sentence each."""
    fields = {field.name for view in service.views for field in view.fields}
    keys = {key for view in service.views for key in view.join_keys}
    wanted = {c.name for c in raw_columns(inputs) if c.origin == "feature"}
    return [
        f"training.inputs: the service '{service.name}' has no feature '{name}'"
        + "".join(f"; did you mean '{close}'?" for close in get_close_matches(name, fields, n=1))
        for name in sorted(wanted - fields - keys)
    ]


def category_columns(inputs: Sequence[ModelInput]) -> list[str]:
    """Return the names of the string columns."""
    return [column.name for column in raw_columns(inputs) if column.datatype == "BYTES"]


def number_columns(inputs: Sequence[ModelInput]) -> list[str]:
    """Return the names of the numeric columns."""
    return [column.name for column in raw_columns(inputs) if column.datatype == "FP32"]


def to_arrays(frame: pl.DataFrame, columns: Sequence[InputColumn]) -> Columns:
    """Return a frame's columns as the graph takes them: null becomes NaN or the empty string."""
    return {
        column.name: frame[column.name].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        if column.datatype == "FP32"
        else frame[column.name].fill_null("").to_numpy().astype(object)
        for column in columns
    }
