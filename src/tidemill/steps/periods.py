"""The training set: read, checked, and split by time."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict

from tidemill.errors import DataError
from tidemill.settings.model import TrainingSettings
from tidemill.steps.inputs import raw_columns

__all__ = ["Split", "read_training_set", "split_by_time"]

TIME = "event_timestamp"
BUILD = "build it again: tidemill run training, or dvc repro training_set"


class Split(BaseModel):
    """Bounds of the three periods, whole UTC days: train | validation | test."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    validation: datetime
    """First instant of the validation period."""
    test: datetime
    """First instant of the test period."""
    end: datetime
    """First instant after the test period."""
    data_sha256: str
    """SHA-256 of the training set's file."""

    def train_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows to learn from."""
        return _between(frame, self.start, self.validation)

    def validation_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that stop and calibrate the training."""
        return _between(frame, self.validation, self.test)

    def test_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the held-out rows."""
        return _between(frame, self.test, self.end)


def read_training_set(path: Path, settings: TrainingSettings) -> pl.DataFrame:
    """Read a training set, in the order of time.

    Raises DataError when the file cannot be read, or a column is missing, has the wrong type or no
    value at all, or when the labels are not 0 and 1 with both present.
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the training set {path} cannot be read: {error}", hint=BUILD) from error
    if frame.is_empty():
        raise DataError(f"the training set {path} has no rows", hint=BUILD)
    problems = _problems(frame, settings)
    if problems:
        raise DataError(
            f"the training set {path} is unusable: " + "; ".join(problems),
            hint="do training.inputs and the feature service agree? tidemill config check",
        )
    return frame.with_columns(pl.col(settings.label).cast(pl.Int8)).sort(TIME, maintain_order=True)


def _problems(frame: pl.DataFrame, settings: TrainingSettings) -> list[str]:
    kinds = {c.name: c.datatype for c in raw_columns(settings.inputs)}
    wanted = [TIME, settings.label, *kinds]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        return [f"column{'s' * (len(missing) > 1)} {', '.join(missing)} missing"]
    found = []
    for name, kind in kinds.items():
        dtype = frame.schema[name]
        fits = dtype == pl.String if kind == "BYTES" else dtype.is_numeric()
        if frame[name].null_count() == frame.height:
            found.append(f"column '{name}' has no value at all")
        elif not fits:
            need = "text" if kind == "BYTES" else "numbers"
            found.append(f"column '{name}' is {dtype}, the model needs {need}")
        elif dtype.is_float() and not frame[name].is_finite().any():
            found.append(f"column '{name}' has no finite value at all")
    if not isinstance(frame.schema[TIME], pl.Datetime) or frame[TIME].null_count():
        found.append(f"column '{TIME}' is {frame.schema[TIME]} and must be a time without nulls")
    return found + _label_problems(frame[settings.label])


def _label_problems(label: pl.Series) -> list[str]:
    if not (label.dtype.is_numeric() or label.dtype == pl.Boolean):
        return [f"label '{label.name}' is {label.dtype}, it must be 0 or 1"]
    values = label.cast(pl.Float64)
    absent = int((values.is_null() | values.is_nan()).sum())
    if absent:
        return [f"label '{label.name}' is missing in {absent} of {label.len()} rows"]
    classes = values.unique().sort().to_list()
    if classes != [0.0, 1.0]:
        return [f"label '{label.name}' must hold 0 and 1, found {classes[:5]}"]
    return []


def split_by_time(
    frame: pl.DataFrame, path: Path, settings: TrainingSettings, mature_until: datetime
) -> Split:
    """Split into train, validation and test by whole UTC days.

    The test period ends with the last whole day before `mature_until`: of later events only the
    quick ones have a label yet, and their event rate is biased. Raises DataError when the days do
    not suffice or a period holds one class only.
    """
    newest = frame[TIME].max()
    oldest = frame[TIME].min()
    assert isinstance(newest, datetime)
    assert isinstance(oldest, datetime)
    end = min(_midnight(mature_until), _midnight(newest) + timedelta(days=1))
    test = end - timedelta(days=settings.test_days)
    validation = test - timedelta(days=settings.validation_days)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    split = Split(
        start=_midnight(oldest), validation=validation, test=test, end=end, data_sha256=sha256
    )
    _check_periods(frame, split, settings)
    return split


def _check_periods(frame: pl.DataFrame, split: Split, settings: TrainingSettings) -> None:
    periods = {
        "training": split.train_rows(frame),
        "validation": split.validation_rows(frame),
        "test": split.test_rows(frame),
    }
    for name, rows in periods.items():
        events = int(rows[settings.label].sum())
        if not 0 < events < rows.height:
            raise DataError(
                f"the {name} period has {rows.height} rows with {events} events, it needs both "
                f"labels; the mature data runs from {split.start:%Y-%m-%d} to "
                f"{split.end:%Y-%m-%d}, of which training.validation_days="
                f"{settings.validation_days} and training.test_days={settings.test_days} are cut",
                hint="wait for more labelled days, or lower those two settings",
            )


def _between(frame: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    return frame.filter(pl.col(TIME).is_between(start, end, closed="left"))


def _midnight(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
