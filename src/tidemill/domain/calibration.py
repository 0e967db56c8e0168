"""How far scores are from frequencies, as a line on the logit scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["calibration_line", "logit"]

Floats = NDArray[np.floating]

EPSILON = 1e-7
STEPS = 50
RIDGE = 1e-6


def logit(score: Floats) -> NDArray[np.float64]:
    """Return log-odds of scores, which are kept 1e-7 away from 0 and 1."""
    p = np.clip(score.astype(np.float64), EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)


def calibration_line(score: Floats, label: Floats) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of the label on the score's logit.

    (1, 0) is perfect calibration, a slope below 1 is overconfidence (Cox 1958, Biometrika 45:562).
    The fit is Newton's method; NaN for both when one class is missing, or all scores are equal.
    """
    x = logit(score)
    if not 0 < label.sum() < label.size or np.ptp(x) == 0:
        return float("nan"), float("nan")
    design = np.column_stack([x, np.ones_like(x)])
    beta = np.array([1.0, 0.0])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (label - p)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])
