"""How far scores are from frequencies, as a line on the logit scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["calibration_line", "logit"]

Floats = NDArray[np.floating]

EPSILON = 1e-7
STEPS = 50
RIDGE = 1e-6
TOLERANCE = 1e-14


def logit(score: Floats) -> NDArray[np.float64]:
    """Return log-odds of scores, which are kept 1e-7 away from 0 and 1."""
    p = np.clip(score.astype(np.float64), EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)


def calibration_line(score: Floats, label: Floats) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of the label on the score's logit.

    (1, 0) is perfect calibration, a slope below 1 is overconfidence (Cox 1958, Biometrika 45:562).
    The fit is Newton's method with halved steps; NaN for both when one class is missing, or all
    scores are equal.
    """
    x = logit(score)
    if not 0 < label.sum() < label.size or np.ptp(x) == 0:
        return float("nan"), float("nan")
    design = np.column_stack([x, np.ones_like(x)])
    beta = np.zeros(2)
    loss = _loss(design @ beta, label)
    for _ in range(STEPS):
        p = np.exp(-np.logaddexp(0, -design @ beta))
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (label - p))
        while (after := _loss(design @ (beta + step), label)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        if loss - after < TOLERANCE * loss:
            break
        beta, loss = beta + step, after
    return float(beta[0]), float(beta[1])


def _loss(z: NDArray[np.float64], label: Floats) -> float:
    """Return the summed log-loss of logits."""
    return float(np.sum(np.logaddexp(0, z) - label * z))
