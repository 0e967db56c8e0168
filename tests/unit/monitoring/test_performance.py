from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tidemill.domain.performance import auc, calibrate, expected_auc, expected_logloss, gaps, z
from tidemill.domain.profile import PerformanceProfile

IDENTITY = ((0.0, 1.0), (0.0, 1.0))
rows = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.integers(0, 1)),
    min_size=2,
    max_size=200,
)


@given(rows)
def test_area_and_loss_are_sklearn_s(pairs: list[tuple[float, int]]) -> None:
    scores, labels = (np.asarray(v, dtype=np.float64) for v in zip(*pairs, strict=True))
    assert expected_logloss(scores, labels) == pytest.approx(
        log_loss(labels, scores, labels=[0, 1])
    )
    if 0 < labels.sum() < len(labels):
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert math.isnan(auc(labels, scores))


def test_what_scores_promise_is_what_labels_drawn_from_them_give() -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 6, 200_000)
    labels = (rng.random(scores.size) < scores).astype(np.float64)
    found = gaps(labels, scores, IDENTITY)
    assert np.abs(found).max() < 0.004
    assert expected_auc(scores, scores) == pytest.approx(roc_auc_score(labels, scores), abs=0.004)


def test_a_shift_of_the_rate_is_a_gap() -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 6, 50_000)
    labels = (rng.random(scores.size) < np.clip(scores + 0.1, 0, 1)).astype(np.float64)
    found = gaps(labels, scores, IDENTITY)
    assert found.rate == pytest.approx(0.1, abs=0.01)
    assert found.logloss > 0.02
    reference = PerformanceProfile(IDENTITY, 7, 80, (0, 0, 0), (0.02, 0.02, 0.02), 0.7, 0.5, 0.25)
    assert z(found, reference).rate == pytest.approx(found.rate / 0.02)


def test_calibration_interpolates_and_stays_inside() -> None:
    rates = calibrate(np.asarray([0.0, 0.25, 2.0]), ((0.0, 0.5), (0.1, 0.3)))
    assert rates.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert 0 < calibrate(np.asarray([0.0]), IDENTITY)[0] < 1e-5
