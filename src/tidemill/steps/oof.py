"""Predictions of the training period by models that did not see it.

The weeks of the training period are dealt to `training.folds` folds; each fold is predicted by a
network fitted to the others for as many epochs as the released model. Where there are cores for it
they are fitted side by side, which changes no prediction.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tidemill.errors import DataError
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
    """Return an uncalibrated logit for every training row; `fold` is the row's fold.

    Raises DataError when all rows are in one fold: no other would be left to learn from.
    """
    if len(np.unique(fold)) < 2:
        raise DataError(
            f"the {len(train)} rows to train on are of less than two weeks: no part of them can be"
            " scored by a network that saw only the others",
            hint="let the data begin earlier: data.start",
        )
    device = train.labels.device
    index = torch.tensor(fold, device=device)
    held_out = [(index == number).nonzero().squeeze(1) for number in range(settings.folds)]
    # In turn: their weights are drawn from torch's own generator.
    members = [ProbabilityModel(settings, vocabulary).to(device) for _ in held_out]

    def predict(number: int) -> Tensor:
        others = train.take((index != number).nonzero().squeeze(1))
        member = members[number]
        member.encoder.fit(others.numbers)
        loop = Loop(member, others, epochs)
        for epoch in range(1, epochs + 1):
            loop.run(epoch)
        return predict_logits(member, train.take(held_out[number]))

    unseen = torch.empty(len(train), device=device)
    with ThreadPoolExecutor(_side_by_side(device)) as pool:
        for rows, logits in zip(held_out, pool.map(predict, range(settings.folds)), strict=True):
            unseen[rows] = logits
    return unseen


def _side_by_side(device: torch.device) -> int:
    """Return how many networks the cores can fit at a time; a GPU fits one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // torch.get_num_threads()) if device.type == "cpu" else 1


def fold_of(frame: pl.DataFrame, folds: int) -> NDArray[np.int64]:
    """Return the fold of every row: whole weeks, dealt in turn."""
    week = (pl.col(TIME) - pl.col(TIME).min()).dt.total_days() // 7
    return frame.select((week % folds).cast(pl.Int64)).to_series().to_numpy()
