"""Predictions of the training period by models that did not see it.

The weeks of the training period are dealt to `training.folds` folds; each fold is predicted by a
network fitted to the others for as many epochs as the released model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples
from tidemill.steps.fit import Loop, predict_logits
from tidemill.steps.model import ProbabilityModel
from tidemill.steps.periods import TIME

__all__ = ["fold_of", "out_of_fold"]


def out_of_fold(
    train: Examples,
    fold: NDArray[np.int64],
    settings: TrainingSettings,
    vocabulary: Mapping[str, Sequence[str]],
    epochs: int,
) -> Tensor:
    """Return an uncalibrated logit for every training row; `fold` is the row's fold."""
    device = train.labels.device
    index = torch.tensor(fold, device=device)
    unseen = torch.empty(len(train), device=device)
    for number in range(settings.folds):
        held_out = (index == number).nonzero().squeeze(1)
        others = train.take((index != number).nonzero().squeeze(1))
        member = ProbabilityModel(settings, vocabulary).to(device)
        member.encoder.fit(others.numbers)
        loop = Loop(member, others, epochs)
        for epoch in range(1, epochs + 1):
            loop.run(epoch)
        unseen[held_out] = predict_logits(member, train.take(held_out))
    return unseen


def fold_of(frame: pl.DataFrame, folds: int) -> NDArray[np.int64]:
    """Return the fold of every row: whole weeks, dealt in turn."""
    week = (pl.col(TIME) - pl.col(TIME).min()).dt.total_days() // 7
    return frame.select((week % folds).cast(pl.Int64)).to_series().to_numpy()
