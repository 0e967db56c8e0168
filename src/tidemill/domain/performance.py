"""Performance: what the scores promise, what matured labels say, and the gap between the two.

The promise is confidence-based estimation: scores, calibrated on out-of-fold predictions, state
the log-loss, event rate and AUC to expect if the calibration still holds. A gap that in-control
pools never showed means that the relation between inputs and label changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tidemill.domain.profile import PerformanceProfile

__all__ = ["Gaps", "auc", "calibrate", "expected_auc", "expected_logloss", "gaps", "z"]

Floats = npt.NDArray[np.float64]
EPS = 1e-6


class Gaps(NamedTuple):
    """Realised minus expected performance of one pool of labelled predictions."""

    logloss: float
    """Nats per row."""
    rate: float
    """Event rate minus mean score."""
    auc: float


def calibrate(scores: Floats, calibration: tuple[Sequence[float], Sequence[float]]) -> Floats:
    """Return the event rates that `scores` stand for, by the knots of an isotonic calibrator."""
    knots, rates = calibration
    return np.clip(np.interp(scores, knots, rates), EPS, 1 - EPS)


def expected_logloss(scores: Floats, rates: Floats) -> float:
    """Return the log-loss of `scores` if events happen at `rates`."""
    p = np.clip(scores, EPS, 1 - EPS)
    return float(-np.mean(rates * np.log(p) + (1 - rates) * np.log1p(-p)))


def auc(labels: Floats, scores: Floats) -> float:
    """Return the area under the ROC curve, ties counted half; NaN with one class alone."""
    return expected_auc(scores, labels)


def expected_auc(scores: Floats, rates: Floats) -> float:
    """Return the AUC of `scores` if events happen at `rates`: each row is part event, part not.

    Ties count half. NaN when there are no events, or nothing else.
    """
    _, group = np.unique(scores, return_inverse=True)
    events = np.bincount(group, weights=rates)
    others = np.bincount(group, weights=1 - rates)
    if events.sum() <= 0 or others.sum() <= 0:
        return float("nan")
    below = np.cumsum(others) - others
    return float(np.sum(events * (below + others / 2)) / (events.sum() * others.sum()))


def gaps(
    labels: Floats, scores: Floats, calibration: tuple[Sequence[float], Sequence[float]]
) -> Gaps:
    """Return realised minus expected performance; a label is an event rate of 0 or 1."""
    rates = calibrate(scores, calibration)
    return Gaps(
        expected_logloss(scores, labels) - expected_logloss(scores, rates),
        float(labels.mean() - scores.mean()),
        auc(labels, scores) - expected_auc(scores, rates),
    )


def z(found: Gaps, reference: PerformanceProfile) -> Gaps:
    """Return the gaps in standard deviations of the in-control pools."""
    parts = zip(found, reference.mean, reference.sd, strict=True)
    return Gaps(*((gap - mean) / max(sd, EPS) for gap, mean, sd in parts))
