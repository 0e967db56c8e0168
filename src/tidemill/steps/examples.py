"""Frames as tensors: the raw columns, kept in memory for batching without a loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from tidemill.settings.model import ModelInput
from tidemill.steps.inputs import category_columns, number_columns

__all__ = ["Examples", "examples", "vocabularies"]


@dataclass(frozen=True, slots=True)
class Examples:
    """Raw rows on one device."""

    numbers: Tensor
    """float32 `[N, numeric columns]`, NaN for missing."""
    codes: Tensor
    """int64 `[N, categories]`, 0 for an unknown value."""
    labels: Tensor
    """float32 `[N]`, 0 or 1."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.labels.shape[0])

    def take(self, index: Tensor) -> Examples:
        """Return the rows at `index`."""
        return Examples(self.numbers[index], self.codes[index], self.labels[index])

    def to(self, device: torch.device) -> Examples:
        """Return the same rows on `device`."""
        return Examples(self.numbers.to(device), self.codes.to(device), self.labels.to(device))

    def hide(self, share: float, generator: torch.Generator) -> Examples:
        """Return the rows with a random `share` of their cells missing or unknown."""
        lost, unknown = (
            torch.rand(cells.shape, generator=generator, device=cells.device) < share
            for cells in (self.numbers, self.codes)
        )
        return Examples(
            self.numbers.masked_fill(lost, torch.nan), self.codes.masked_fill(unknown, 0),
            self.labels,
        )  # fmt: skip


def examples(
    frame: pl.DataFrame,
    inputs: Sequence[ModelInput],
    vocabulary: Mapping[str, Sequence[str]],
    label: str,
) -> Examples:
    """Return a frame's rows as tensors."""
    numbers = [pl.col(n).cast(pl.Float32).fill_null(float("nan")) for n in number_columns(inputs)]
    codes = [
        pl.col(name).replace_strict(
            {value: code for code, value in enumerate(known, start=1)},
            default=0,
            return_dtype=pl.Int64,
        )
        for name, known in vocabulary.items()
    ]
    return Examples(
        _matrix(frame, numbers, torch.float32),
        _matrix(frame, codes, torch.int64),
        _matrix(frame, [pl.col(label).cast(pl.Float32)], torch.float32)[:, 0],
    )


def vocabularies(
    train: pl.DataFrame, inputs: Sequence[ModelInput], min_rows: int
) -> dict[str, list[str]]:
    """Return the sorted values of every category that at least `min_rows` training rows have."""
    found = {}
    for name in category_columns(inputs):
        counts = train[name].drop_nulls().value_counts(name="rows")
        frequent = counts.filter((pl.col("rows") >= min_rows) & (pl.col(name) != ""))
        found[name] = frequent[name].sort().to_list()
    return found


def _matrix(frame: pl.DataFrame, columns: Sequence[pl.Expr], dtype: torch.dtype) -> Tensor:
    if not columns:
        return torch.empty((frame.height, 0), dtype=dtype)
    return torch.from_numpy(frame.select(columns).to_numpy(order="c", writable=True))
