"""Figures of scores against scikit-learn and against their own algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tidemill.domain.calibration import calibration_line, logit
from tidemill.domain.criteria import METRICS
from tidemill.domain.metrics import auc_error, ece, measure

RNG = np.random.default_rng(4)


def sample(rows: int, slope: float = 1.0, intercept: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels whose true calibration line is given."""
    z = RNG.normal(-1, 1, rows)
    label = (RNG.random(rows) < 1 / (1 + np.exp(-(slope * z + intercept)))).astype(np.float32)
    return (1 / (1 + np.exp(-z))).astype(np.float32), label


def test_figures_equal_those_of_scikit_learn() -> None:
    score, label = sample(3000)
    score = np.round(score, 2).clip(0.01, 0.99)
    found = measure(score, label)
    assert set(found) == set(METRICS)
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found["logloss"] == pytest.approx(log_loss(label, score.astype(float)), abs=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(label, score), abs=1e-7)


def test_the_calibration_line_is_the_logistic_regression_on_the_logit() -> None:
    score, label = sample(4000, 0.7, 0.4)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(score)[:, None], label)
    slope, intercept = calibration_line(score, label)
    assert slope == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)


@given(slope=st.floats(0.8, 3), intercept=st.floats(-1, 1))  # beyond, logits reach the clip
def test_the_calibration_line_undoes_a_distortion(slope: float, intercept: float) -> None:
    score, label = sample(2000)
    true = calibration_line(score, label)
    distorted = 1 / (1 + np.exp(-(logit(score) - intercept) / slope))
    found = calibration_line(distorted, label)
    assert found[0] == pytest.approx(true[0] * slope, rel=1e-3)
    assert found[1] == pytest.approx(true[1] + true[0] * intercept, abs=5e-3)


def test_ece_is_zero_for_group_frequencies_and_counts_the_gap() -> None:
    label = np.tile([1.0, 0.0, 0.0, 0.0], 300)
    assert ece(np.full(1200, 0.25), label) == pytest.approx(0, abs=1e-6)
    assert ece(np.full(1200, 0.45), label) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_area_and_no_line(label: float) -> None:
    found = measure(np.linspace(0.1, 0.9, 50), np.full(50, label))
    assert np.isnan([found["auc"], found["calibration_slope"]]).all()
    assert np.isfinite(found["logloss"])


def test_the_error_of_an_area_is_its_spread_over_samples() -> None:
    areas = [measure(*sample(400))["auc"] for _ in range(300)]
    label_share = 0.3
    predicted = auc_error(float(np.mean(areas)), int(400 * label_share), int(400 * 0.7))
    assert np.std(areas) == pytest.approx(predicted, rel=0.25)
