"""Train the torch model on a training set, and predict its own past without having seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidemill.domain.calibration import calibration_line
from tidemill.files import place
from tidemill.ports.tracking import Tracker
from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples
from tidemill.steps.fit import Checkpoint, fit, predict_logits, reproducible
from tidemill.steps.formats import to_parquet
from tidemill.steps.model import ProbabilityModel
from tidemill.steps.oof import fold_of, out_of_fold
from tidemill.steps.periods import Split
from tidemill.steps.record import Epoch, TrainingRecord, read_record, write_record
from tidemill.steps.training_data import TrainingData
from tidemill.steps.weights import read_state, to_bytes

__all__ = ["calibrate", "load_model", "train"]

log = structlog.get_logger(__name__)

WEIGHTS = "model.pt"


def train(data: TrainingData, out: Path, *, tracker: Tracker) -> TrainingRecord:
    """Train, and write the folder `out`.

    It then holds `model.pt` (weights), `training.json` (`TrainingRecord`) and `oof.parquet` (every
    mature row with `score`, predicted by a model that had not learned from its week). If the same
    training was killed before, it continues after its last whole epoch. Raises Unavailable when
    there is no room for them, DataError when the checkpoint is not whole.
    """
    settings = data.settings
    checkpoint = Checkpoint(out / "checkpoint.pt", _fingerprint(data.split, settings))
    tracker.log_params(_params(settings))
    with reproducible(settings) as device:
        model = ProbabilityModel(settings, data.vocabularies).to(device)
        epochs, best, scores = _learn(model, data, checkpoint, tracker)
    record = TrainingRecord(
        settings=settings,
        vocabularies=data.vocabularies,
        split=data.split,
        as_of=data.as_of,
        rows={name: period.height for name, period in data.periods.items()},
        prior=data.prior,
        epochs=epochs,
        best_epoch=best,
        calibration=(float(model.slope), float(model.intercept)),
        device=str(device),
    )
    unseen = pl.concat(data.periods.values()).with_columns(score=scores)
    place(out / "oof.parquet", to_parquet(unseen))
    place(out / WEIGHTS, to_bytes(model.cpu().state_dict()))
    write_record(out, record)
    checkpoint.path.unlink()
    return record


def _learn(
    model: ProbabilityModel, data: TrainingData, checkpoint: Checkpoint, tracker: Tracker
) -> tuple[tuple[Epoch, ...], int, NDArray[np.float32]]:
    """Fit and calibrate; return the epochs, the best one, and honest scores of all rows."""
    settings, device = model.settings, model.slope.device
    rows = {name: data.examples(name).to(device) for name in data.periods}
    train, validation = rows["train"], rows["validation"]
    model.encoder.fit(train.numbers)
    epochs, best = fit(model, train, validation, checkpoint, lambda e: _report(e, tracker))
    fold = fold_of(data.periods["train"], settings.folds)
    logits = {
        "train": out_of_fold(train, fold, settings, data.vocabularies, best),
        "validation": predict_logits(model, validation),
        "test": predict_logits(model, rows["test"]),
    }
    calibrate(model, logits, rows)
    scores = model.probability(torch.cat(list(logits.values())))
    return epochs, best, scores.cpu().numpy()


def load_model(folder: Path) -> tuple[ProbabilityModel, TrainingRecord]:
    """Return the trained model, ready to predict on the CPU, and its record; raises DataError."""
    record = read_record(folder)
    model = ProbabilityModel(record.settings, record.vocabularies)
    model.load_state_dict(read_state(folder / WEIGHTS, again="tidemill model train"))
    return model.eval(), record


def calibrate(
    model: ProbabilityModel, logits: Mapping[str, Tensor], rows: Mapping[str, Examples]
) -> None:
    """Set slope and intercept to the calibration line of rows that no model had learned from.

    These are the training rows, out of fold, and the validation rows: ten days alone have an event
    rate of their own, and a line through them carries it into the future.
    """
    unseen = ("train", "validation")
    slope, intercept = calibration_line(
        torch.cat([logits[n] for n in unseen]).double().sigmoid().cpu().numpy(),
        torch.cat([rows[n].labels for n in unseen]).cpu().numpy(),
    )
    model.slope.fill_(slope)
    model.intercept.fill_(intercept)


def _fingerprint(split: Split, settings: TrainingSettings) -> str:
    body = split.model_dump_json() + settings.model_dump_json() + torch.__version__
    return hashlib.sha256(body.encode()).hexdigest()


def _params(settings: TrainingSettings) -> dict[str, str | int | float | bool]:
    """Return the settings as a run's parameters; lists become text."""
    body = settings.model_dump(exclude={"inputs"})
    plain = {k: v if isinstance(v, str | int | float) else str(v) for k, v in body.items()}
    return plain | {"inputs": ", ".join(f"{i.name}:{i.encoding}" for i in settings.inputs)}


def _report(epoch: Epoch, tracker: Tracker) -> None:
    losses = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
    log.info("epoch", number=epoch.number, **{k: round(v, 5) for k, v in losses.items()})
    tracker.log_metrics(losses, step=epoch.number)
