from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.drift import (
    category_bins,
    noise_bound,
    numeric_bins,
    psi,
    psi_bound,
    weighted_share,
)

counts = st.lists(st.integers(0, 10_000), min_size=2, max_size=12)
numbers = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300)


@given(counts)
def test_equal_counts_do_not_differ(bins: list[int]) -> None:
    assert psi(bins, bins) == 0


@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 10_000), min_size=n, max_size=n)] * 2)
    )
)
def test_the_index_is_symmetric_finite_and_not_negative(pair: tuple[list[int], list[int]]) -> None:
    one, other = pair
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert 0 <= psi(one, other) < 50


@given(numbers)
def test_every_value_has_one_bin_and_nulls_the_last(values: list[float]) -> None:
    array = np.asarray(values)
    bins = numeric_bins(array)
    found = bins.count(array)
    assert found.sum() == len(values)
    assert len(found) == len(bins)
    assert found[-1] == np.isnan(array).sum()


@given(st.lists(st.sampled_from(["UA", "B6", "AA", None]), min_size=1, max_size=200))
def test_unknown_and_null_categories_have_bins_of_their_own(values: list[str | None]) -> None:
    bins = category_bins(("AA", "UA"), (50, 50))
    found = bins.count(np.asarray(values, dtype=object))
    assert found.tolist() == [values.count(c) for c in ("AA", "UA", "B6", None)]


def test_rare_categories_share_a_bin() -> None:
    assert category_bins(("AA", "HA"), (999, 1)).categories == ("AA",)


def test_one_outlier_cannot_hide_a_shift() -> None:
    rng = np.random.default_rng(0)
    reference, shifted = rng.normal(35, 10, 20_000), rng.normal(65, 10, 5_000)
    bins = numeric_bins(reference)
    plain = psi(bins.count(reference), bins.count(shifted))
    shifted[0] = 1e9
    assert psi(bins.count(reference), bins.count(shifted)) == pytest.approx(plain, rel=0.01)
    assert plain > 2


def test_nulls_are_seen() -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=20_000), rng.normal(size=10_000)
    current[::3] = np.nan
    bins = numeric_bins(reference)
    assert psi(bins.count(reference), bins.count(current)) > 1


def test_chance_stays_below_the_noise_bound() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=50_000)
    bins = numeric_bins(reference)
    counted = bins.count(reference)
    bound = noise_bound(50_000, 500, len(bins), 1)
    found = [psi(counted, bins.count(rng.normal(size=500))) for _ in range(400)]
    assert 0 < np.mean(np.asarray(found) > bound) < 0.03
    assert noise_bound(50_000, 500, len(bins), 25) > bound


def test_the_bound_is_the_largest_of_the_three() -> None:
    assert psi_bound(1.0, 0.2, factor=1.25, floor=0.1) == 1.25
    assert psi_bound(0.0, 0.2, factor=1.25, floor=0.1) == 0.2
    assert psi_bound(0.0, 0.0, factor=1.25, floor=0.1) == 0.1


def test_shares_follow_importance() -> None:
    assert weighted_share([True, False], [0.3, 0.7]) == pytest.approx(0.3)
    assert weighted_share([True, False], [0.0, 0.0]) == pytest.approx(0.5)
    assert weighted_share([], []) == 0
