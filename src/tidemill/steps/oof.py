"""Predictions of the training period by models that did not see it: the monitor's reference.

The weeks of the training period are dealt to `training.folds` folds; each fold is predicted by a
network fitted to the others for as many epochs as the released model. The validation and test
periods, which the released model did not learn from, are predicted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch

from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples
from tidemill.steps.fit import Loop, predict_logits
from tidemill.steps.model import ProbabilityModel
from tidemill.steps.periods import TIME

__all__ = ["fold_of", "out_of_fold"]


def out_of_fold(
    model: ProbabilityModel,
    rows: Mapping[str, Examples],
    fold: np.ndarray[tuple[int], np.dtype[np.int64]],
    settings: TrainingSettings,
    vocabulary: Mapping[str, list[str]],
    epochs: int,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a score for every row of the periods, in order; `fold` is that of training rows."""
    device = rows["train"].labels.device
    index = torch.tensor(fold, device=device)
    seen = torch.empty(len(rows["train"]), device=device)
    for number in range(settings.folds):
        held_out = (index == number).nonzero().squeeze(1)
        others = rows["train"].take((index != number).nonzero().squeeze(1))
        member = ProbabilityModel(settings, vocabulary).to(device)
        member.encoder.fit(others.numbers)
        loop = Loop(member, others, settings, epochs)
        for epoch in range(1, epochs + 1):
            loop.run(epoch)
        seen[held_out] = predict_logits(member, rows["train"].take(held_out))
    later = [predict_logits(model, rows[name]) for name in ("validation", "test")]
    logits = torch.cat([seen, *later])
    scores = torch.sigmoid(logits * model.slope + model.intercept)
    return scores.cpu().numpy()


def fold_of(frame: pl.DataFrame, folds: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the fold of every row: whole weeks, dealt in turn."""
    week = (pl.col(TIME) - pl.col(TIME).min()).dt.total_days() // 7
    return frame.select((week % folds).cast(pl.Int64)).to_series().to_numpy()
