"""What training leaves behind for the steps after it, readable without torch."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tidemill.errors import DataError
from tidemill.files import place
from tidemill.settings.model import TrainingSettings
from tidemill.steps.periods import Split

__all__ = ["Epoch", "TrainingRecord", "read_record", "write_record"]

NAME = "training.json"


class Epoch(BaseModel):
    """One pass over the training rows; losses in nats per row."""

    model_config = ConfigDict(frozen=True)

    number: int
    train_loss: float
    validation_loss: float


class TrainingRecord(BaseModel):
    """The trained model's description; its weights lie beside it in `model.pt`."""

    model_config = ConfigDict(frozen=True)

    settings: TrainingSettings
    vocabularies: dict[str, list[str]]
    """Known values of every category, code 1 onwards; code 0 is everything else."""
    split: Split
    as_of: datetime
    """The instant at which the labels were known."""
    rows: dict[str, int]
    """Rows of the periods `train`, `validation` and `test`."""
    prior: float
    """Share of the event in the training period."""
    epochs: tuple[Epoch, ...]
    best_epoch: int
    """The epoch whose weights were kept."""
    calibration: tuple[float, float]
    """Slope and intercept applied to the logit."""
    device: str
    """`cpu` or the name of the GPU."""


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write `training.json`; raises Unavailable."""
    place(folder / NAME, (record.model_dump_json(indent=1) + "\n").encode())


def read_record(folder: Path) -> TrainingRecord:
    """Read `training.json`; raises DataError when the folder holds no finished training."""
    try:
        return TrainingRecord.model_validate_json((folder / NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no finished training: {NAME} cannot be read ({error})",
            hint="run the training step again; it continues from its last checkpoint",
        ) from error
