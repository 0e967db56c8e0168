"""Figures of a probabilistic prediction of a binary event."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.calibration import calibration_line
from tidemill.domain.performance import auc

__all__ = ["auc_error", "brier", "ece", "log_losses", "measure"]

Floats = NDArray[np.floating]

EPSILON = 1e-7


def log_losses(score: Floats, label: Floats) -> NDArray[np.float64]:
    """Return the log-loss of every row in nats; scores are kept 1e-7 away from 0 and 1."""
    p = np.clip(score.astype(np.float64), EPSILON, 1 - EPSILON)
    return -np.where(label > 0, np.log(p), np.log1p(-p))


def brier(score: Floats, label: Floats) -> float:
    """Return the mean squared difference of score and label."""
    return float(np.mean((score.astype(np.float64) - label) ** 2))


def auc_error(area: float, events: int, others: int) -> float:
    """Return the standard error of an AUC (Hanley and McNeil 1982, Radiology 143:29)."""
    q1 = area / (2 - area)
    q2 = 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (events - 1) * (q1 - area**2) + (others - 1) * (q2 - area**2)
    return float(np.sqrt(spread / (events * others)))


def ece(score: Floats, label: Floats, bins: int = 15) -> float:
    """Return the expected calibration error over `bins` groups of equally many rows."""
    order = np.argsort(score, kind="stable")
    gaps = [
        abs(float(score[part].mean(dtype=np.float64)) - float(label[part].mean())) * part.size
        for part in np.array_split(order, bins)
        if part.size
    ]
    return float(sum(gaps) / score.size)


def measure(score: Floats, label: Floats) -> dict[str, float]:
    """Return every figure of `METRICS` for scores in [0, 1] and labels 0 or 1, shape `[N]`.

    `METRICS` is in `domain.criteria`. `bias` is mean score minus event rate; slope and intercept
    are those of `calibration_line`.
    """
    slope, intercept = calibration_line(score, label)
    return {
        "auc": auc(label.astype(np.float64), score.astype(np.float64)),
        "logloss": float(log_losses(score, label).mean()),
        "brier": brier(score, label),
        "ece": ece(score, label),
        "bias": float(score.mean(dtype=np.float64) - label.mean(dtype=np.float64)),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }
