"""The statistics of a canary: hand values, algebra, error rates on simulated traffic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.evalues import (
    alternatives,
    log_guard,
    log_mean_exp,
    log_restarts,
    log_sample_ratio,
    log_wealth,
    ratio_interval,
)
from tidemill.domain.evidence import LEVELS, Metric, Segment, Tolerance, assess, extend

WHOLE = np.array([1.0])
METRIC = Metric("errors", "error", False, 1.2, 1.5, None, 0.01)
TOLERANCE = Tolerance(0.05, 0.0001, 5, 0.8)


def counts(stable: float, canary: float) -> np.ndarray:
    return np.array([[[stable, canary]]], dtype=float)


def log_e(weight: float, stable: float, canary: float, null: float, side: str) -> float:
    ratios = alternatives(null, side)
    wealth = log_wealth(np.array([weight]), WHOLE, counts(stable, canary), ratios, null)
    return log_mean_exp(wealth.sum(axis=0))


def running(weights: np.ndarray, bad: np.ndarray, null: float, side: str) -> np.ndarray:
    """Log e-value after every window, `[runs, windows]`; `bad` is `[runs, windows, 2]`."""
    runs, windows, _ = bad.shape
    flat = bad.reshape(runs * windows, 1, 2)
    wealth = log_wealth(np.tile(weights, runs), WHOLE, flat, alternatives(null, side), null)
    total = wealth.reshape(runs, windows, -1).cumsum(axis=1)
    peak = total.max(axis=2)
    return peak + np.log(np.exp(total - peak[..., None]).mean(axis=2))


def traffic(
    rng: np.random.Generator, runs: int, weights: np.ndarray, rate: np.ndarray, ratio: float
) -> np.ndarray:
    """Bad events per window on stable and canary, `[runs, windows, 2]`, 600 requests each."""
    requests = rng.poisson(600, size=(runs, len(weights)))
    canary = rng.binomial(requests, weights)
    bad = [rng.binomial(requests - canary, rate), rng.binomial(canary, np.minimum(1, rate * ratio))]
    return np.stack(bad, axis=-1).astype(float)


@pytest.mark.parametrize(("errors", "expected"), [(1, 1.87), (2, 4.06), (3, 6.41)])
def test_hand_values_of_the_first_errors(errors, expected):
    """Weight 5 %, r_h 1.2: computed by hand from p(r) = w r / (w r + 1 - w)."""
    assert round(log_e(0.05, 0, errors, 1.2, "harm"), 2) == expected
    ratios = 1.2 * np.geomspace(1.1, 64, 25)
    chance = 0.05 * ratios / (0.05 * ratios + 0.95)
    assumed = 0.05 * 1.2 / (0.05 * 1.2 + 0.95)
    by_hand = math.log(np.mean((chance / assumed) ** errors))
    assert math.isclose(log_e(0.05, 0, errors, 1.2, "harm"), by_hand, rel_tol=1e-12)


def test_two_point_case_in_closed_form():
    """One alternative: E = (p1/p0)^Z ((1-p1)/(1-p0))^(M-Z)."""
    w, null, ratio, canary, stable = 0.1, 1.2, 3.0, 7, 11
    p0, p1 = (w * r / (w * r + 1 - w) for r in (null, ratio))
    expected = canary * math.log(p1 / p0) + stable * math.log((1 - p1) / (1 - p0))
    wealth = log_wealth(np.array([w]), WHOLE, counts(stable, canary), np.array([ratio]), null)
    assert math.isclose(float(wealth[0, 0]), expected, rel_tol=1e-12)


RAMP = np.repeat([0.01, 0.05, 0.1, 0.25, 0.5], 20)
INCIDENT = 0.005 * (1 + 0.8 * np.sin(np.arange(100) / 20))
INCIDENT[40:45] = 0.2


@pytest.mark.parametrize("ratio", [1.0, 1.2])
def test_false_rollback_stays_below_alpha_through_ramps_and_incidents(ratio):
    rng = np.random.default_rng(20261122)
    bad = traffic(rng, 1500, RAMP, INCIDENT, ratio)
    false = (running(RAMP, bad, 1.2, "harm") >= math.log(100)).any(axis=1).mean()
    assert false <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 1500)


def test_false_rollback_under_a_round_robin_split():
    rng = np.random.default_rng(3)
    requests = rng.poisson(600, size=(1000, 100))
    canary = np.rint(requests * RAMP).astype(int)
    bad = np.stack(
        [rng.binomial(requests - canary, INCIDENT), rng.binomial(canary, 1.2 * INCIDENT)], axis=-1
    ).astype(float)
    false = (running(RAMP, bad, 1.2, "harm") >= math.log(100)).any(axis=1).mean()
    assert false <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 1000)


def test_false_pass_at_the_margin_stays_below_beta():
    rng = np.random.default_rng(20261122)
    weights = np.full(100, 0.5)
    bad = traffic(rng, 1500, weights, np.full(100, 0.005), 1.5)
    false = (running(weights, bad, 1.5, "pass") >= math.log(20)).any(axis=1).mean()
    assert 0 < false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_the_restarting_test_as_the_controller_uses_it_keeps_alpha():
    rng = np.random.default_rng(5)
    false, looks = 0, 40
    weights = np.repeat([500, 5000], looks // 2)
    for _ in range(150):
        bad = traffic(rng, 1, weights / 10_000, np.full(looks, 0.02), 1.2)[0].astype(int)
        segments = ()
        for k in range(looks):
            pair = (int(bad[k, 0]), int(bad[k, 1]))
            trials = (3000, 3000)
            losses = ((LEVELS, *pair),)
            segments = extend(
                segments, Segment(0, k // 20, int(weights[k]), trials, trials, losses)
            )
        harm = assess(METRIC, segments, replace(TOLERANCE, srm_alpha=1e-300), 1)
        false += harm.log_e_harm >= harm.harm_at
    assert false <= 150 * 0.01 + 3 * math.sqrt(150 * 0.01 * 0.99)


def test_false_rollback_and_false_pass_on_fractional_losses():
    """Losses of a missed event (1) and of a false alarm (6/20), mean ratio exactly at the null."""
    rng = np.random.default_rng(11)
    runs, days, rows = 400, 14, 500
    arm = rng.random((runs, days, rows)) < 0.5
    for null, side, level in ((1.1, "harm", 0.01), (1.25, "pass", 0.05)):
        scale = np.where(arm, null, 1.0)
        draw = rng.random((runs, days, rows))
        missed, alarm = draw < 0.08 * scale, (draw > 1 - 0.25 * scale)
        losses = np.stack(
            [
                np.stack([(kind & ~arm).sum(2), (kind & arm).sum(2)], axis=-1)
                for kind in (alarm, missed)
            ],
            axis=2,
        ).astype(float)
        wealth = log_wealth(
            np.full(runs * days, 0.5),
            np.array([0.3, 1.0]),
            losses.reshape(runs * days, 2, 2),
            alternatives(null, side),
            null,
        )
        total = wealth.reshape(runs, days, -1).cumsum(axis=1)
        e = np.log(np.exp(total - total.max(2, keepdims=True)).mean(2)) + total.max(2)
        false = (e >= math.log(1 / level)).any(axis=1).mean()
        assert false <= level + 3 * math.sqrt(level * (1 - level) / runs)


def test_power_floor():
    """Weight 5 %, base 0.5 %, 600 requests a minute: x3 is found in most runs within 100 min."""
    rng = np.random.default_rng(2)
    weights = np.full(100, 0.05)
    found = running(weights, traffic(rng, 300, weights, np.full(100, 0.005), 3.0), 1.2, "harm")
    assert (found >= math.log(100)).any(axis=1).mean() > 0.75
    found = running(weights, traffic(rng, 300, weights, np.full(100, 0.005), 10.0), 1.2, "harm")
    assert (found[:, :10] >= math.log(100)).any(axis=1).mean() > 0.9


def test_late_harm_is_found_sooner_by_the_restarting_test():
    healthy, sick = (4000, 450), (10, 50)
    past = [Segment(k, 1, 1000, (1, 1), (1, 1), ((LEVELS, *healthy),)) for k in range(5)]
    new = Segment(5, 1, 1000, (1, 1), (1, 1), ((LEVELS, *sick),))
    losses = np.array([[s.losses[0][1:]] for s in [*past, new]], dtype=float)
    ratios = alternatives(1.2, "harm")
    wealth = log_wealth(np.full(6, 0.1), WHOLE, losses, ratios, 1.2)
    assert log_mean_exp(wealth.sum(axis=0)) < 0 < math.log(100)
    assert log_restarts(wealth, np.arange(6)) > math.log(100)


pieces = st.lists(
    st.tuples(st.sampled_from([500, 5000]), st.integers(0, 50), st.integers(0, 20)),
    min_size=1,
    max_size=12,
)


def fold(windows, epoch_of):
    segments = ()
    for weight, stable, canary in windows:
        losses = ((LEVELS, stable, canary),) if stable or canary else ()
        segments = extend(
            segments, Segment(0, epoch_of(weight), weight, (200, 20), (200, 20), losses)
        )
    return segments


@given(pieces)
@settings(max_examples=25, deadline=None)
def test_streamed_and_recomputed_evidence_are_identical(windows):
    tolerance = replace(TOLERANCE, srm_alpha=1e-300)
    ordered = sorted(windows)
    streamed = fold(ordered, lambda weight: weight)
    assert assess(METRIC, streamed, tolerance, 500) == assess(
        METRIC, tuple(replace(s) for s in streamed), tolerance, 500
    )
    merged = fold(
        [
            (w, sum(s for v, s, _ in ordered if v == w), sum(c for v, _, c in ordered if v == w))
            for w in sorted({w for w, *_ in ordered})
        ],
        lambda weight: weight,
    )
    a, b = (assess(METRIC, s, tolerance, 500) for s in (streamed, merged))
    assert (a.log_e_harm, a.log_e_pass) == (b.log_e_harm, b.log_e_pass), "cutting changes nothing"


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.0001, 0.05, 0.5]))
@settings(max_examples=60, deadline=None)
def test_more_canary_events_are_more_harm_and_less_pass(canary, total, weight):
    canary = min(canary, total - 1)
    fewer = (weight, total - canary, canary)
    more = (weight, total - canary - 1, canary + 1)
    assert log_e(*more, 1.2, "harm") > log_e(*fewer, 1.2, "harm")
    assert log_e(*more, 1.5, "pass") < log_e(*fewer, 1.5, "pass")


def test_a_billion_events_at_one_in_ten_thousand():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        equal = log_e(1e-4, 1e9 * (1 - 1e-4), 1e5, 1.2, "harm")
        worse = log_e(1e-4, 1e9, 2e5, 1.2, "harm")
        passing = log_e(1e-4, 1e9, 1e5, 1.5, "pass")
        low, high = ratio_interval(np.array([1e-4]), WHOLE, counts(1e9, 1e5), 0.05)
    assert equal < -1000
    assert 1e3 < worse < 1e9
    assert passing > 1000
    assert 0.9 < low < 1.0 < high < 1.1
    assert abs(log_sample_ratio(10**9 - 10**5, 10**5, 1e-4)) < 20
    assert log_sample_ratio(10**9, 0, 1e-4) > 1e4
    assert math.isfinite(log_guard(10**9, 10**8, 0.05))


def test_the_interval_covers_the_truth_and_shrinks():
    rng = np.random.default_rng(8)
    outside, widths = 0, []
    for _ in range(100):
        bad = rng.poisson([300, 450])
        low, high = ratio_interval(np.array([0.5]), WHOLE, counts(*bad), 0.05)
        outside += not low <= 1.5 <= high
        widths.append(high / low)
    assert outside <= 5
    assert 1.2 < np.median(widths) < 1.8
    assert ratio_interval(np.array([0.5]), WHOLE, counts(0, 0), 0.05) == (1 / 64, 64)


def test_the_sample_ratio_test():
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(400):
        canary = rng.binomial(np.full(50, 200), 0.05).cumsum()
        total = 200 * np.arange(1, 51)
        looks = [
            log_sample_ratio(int(n - c), int(c), 0.05) for n, c in zip(total, canary, strict=True)
        ]
        false += max(looks) >= math.log(20)
    assert false <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
    assert log_sample_ratio(9000, 1000, 0.05) > math.log(1e4)


def test_the_guard_looks_at_the_canary_alone():
    assert log_guard(1000, 40, 0.05) < 0
    assert log_guard(1000, 100, 0.05) > math.log(200)
    rng = np.random.default_rng(6)
    bad = rng.binomial(50, 0.05, size=(500, 40)).cumsum(axis=1)
    trials = 50 * np.arange(1, 41)
    false = np.mean(
        [
            any(
                log_guard(int(n), int(b), 0.05) >= math.log(100)
                for n, b in zip(trials, row, strict=True)
            )
            for row in bad
        ]
    )
    assert false <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 500)


@pytest.mark.parametrize(
    ("trials", "losses", "verdict"),
    [
        ((0, 0), (), "missing"),
        ((9500, 500), ((20, 50, 3),), "undecided"),
        ((9500, 500), ((20, 20, 60),), "harm"),
        ((9500, 500), ((20, 0, 3),), "undecided"),
        ((5000, 5000), ((20, 300, 300),), "missing"),
    ],
)
def test_verdicts(trials, losses, verdict):
    segment = Segment(0, 1, 500, trials, trials, losses)
    assert assess(METRIC, (segment,), TOLERANCE, 1).verdict == verdict


def test_few_bad_events_never_decide():
    """Three errors on the canary alone cross the level; five are needed."""
    for errors, verdict in ((4, "undecided"), (5, "harm")):
        segment = Segment(0, 1, 500, (950, 50), (950, 50), ((20, 0, errors),))
        assert assess(METRIC, (segment,), TOLERANCE, 1).verdict == verdict


def test_old_neighbours_are_merged_and_the_counts_survive():
    segments = ()
    for k in range(100):
        segments = extend(
            segments, Segment(0, k // 50, 500 + k // 50, (6000, 300), (6000, 300), ((20, 30, 2),))
        )
    assert len(segments) <= 32
    assert sum(s.trials[0] for s in segments) == 600_000
    assert [s.ordinal for s in segments] == sorted({s.ordinal for s in segments})
