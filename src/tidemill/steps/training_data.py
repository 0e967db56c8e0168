"""What the network learns from, and what it must beat: the same rows, the same vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples, examples, vocabularies
from tidemill.steps.periods import Split, read_training_set, split_by_time

__all__ = ["TrainingData", "read_training_data"]


@dataclass(frozen=True)
class TrainingData:
    """A training set, split by time; the same file, settings and moment give the same."""

    settings: TrainingSettings
    as_of: datetime
    """The moment whose knowledge it is."""
    split: Split
    periods: Mapping[str, pl.DataFrame]
    """Rows by period, in the order of time: `train`, `validation`, `test`."""
    vocabularies: dict[str, list[str]]
    """Known values of each category, from the training period."""

    @property
    def prior(self) -> float:
        """Share of events in the training period."""
        labels = self.periods["train"][self.settings.label]
        return float(labels.cast(pl.Float64).to_numpy().mean())

    def examples(self, period: str) -> Examples:
        """Return a period as tensors, `[rows]`."""
        settings = self.settings
        return examples(self.periods[period], settings.inputs, self.vocabularies, settings.label)


def read_training_data(
    path: Path, settings: TrainingSettings, *, as_of: datetime, maturity_hours: float
) -> TrainingData:
    """Read a training set and split it; events later than `maturity_hours` before `as_of` are left.

    Raises DataError when the data is unusable.
    """
    frame = read_training_set(path, settings)
    split = split_by_time(frame, path, settings, as_of - timedelta(hours=maturity_hours))
    periods = {
        "train": split.train_rows(frame),
        "validation": split.validation_rows(frame),
        "test": split.test_rows(frame),
    }
    known = vocabularies(periods["train"], settings.inputs, settings.min_category_rows)
    return TrainingData(settings, as_of, split, periods, known)
