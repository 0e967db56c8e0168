"""The tails by which the scores of two models are compared."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.drift import numeric_bins
from tidemill.domain.profile import FeatureProfile
from tidemill.domain.scores import BOUNDS, tails
from tidemill.testing.models import PROFILE


def profile(scores: np.ndarray) -> FeatureProfile:
    bins = numeric_bins(scores)
    counts = tuple(bins.count(scores).tolist())
    return replace(PROFILE.score, edges=bins.edges, counts=counts)


def test_the_tails_are_about_a_quarter_each() -> None:
    scores = np.random.default_rng(0).beta(2, 6, 10_000)
    low, high = tails(profile(scores))
    assert {low, high} < set(BOUNDS)
    assert 0.18 < (scores <= low).mean() < 0.32
    assert 0.18 < (scores > high).mean() < 0.32


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_any_scores_have_tails_in_order(scores: list[float]) -> None:
    low, high = tails(profile(np.array(scores)))
    assert low <= high
    assert {low, high} <= set(BOUNDS)
