"""The statistics of a canary: hand values, algebra, error rates on simulated traffic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.unit.rollout_world import START, plan, revision

from tidemill.domain.evalues import (
    alternatives,
    log_guard,
    log_mean_exp,
    log_restarts,
    log_sample_ratio,
    log_wealth,
    ratio_interval,
)
from tidemill.domain.evidence import LEVELS, TOTAL, Metric, Segment, Tolerance, assess, extend
from tidemill.domain.rollout.model import Attempt, State
from tidemill.domain.rollout.readings import Evidence
from tidemill.testing.canaries import Canaries

WHOLE = np.array([1.0])
METRIC = Metric("errors", "error", 1.2, 1.5, None, 0.01)
TOLERANCE = Tolerance(0.05, 0.0001, 5, 0.8)


def counts(stable: float, canary: float) -> np.ndarray:
    return np.array([[[stable, canary]]], dtype=float)


def log_e(weight: float, stable: float, canary: float, null: float, side: str) -> float:
    ratios = alternatives(null, side)
    wealth = log_wealth(np.array([weight]), WHOLE, counts(stable, canary), ratios, null)
    return log_mean_exp(wealth.sum(axis=0))


def traffic(
    rng: np.random.Generator, runs: int, weights: np.ndarray, rate: np.ndarray, ratio: float
) -> tuple[np.ndarray, Canaries]:
    """The canary's requests per look, `[runs, looks]`, and the canaries; 600 requests a look."""
    return split(
        rng, rng.binomial(600, weights / TOTAL, (runs, len(weights))), weights, rate, ratio
    )


def split(rng, canary, weights, rate, ratio) -> tuple[np.ndarray, Canaries]:
    bad = [rng.binomial(600 - canary, rate), rng.binomial(canary, np.minimum(1, rate * ratio))]
    losses = np.stack(bad, axis=-1)[:, :, None, :].astype(float)
    return canary, Canaries(weights.tolist(), [600] * len(weights), losses)


def at_most(level: float, decided: np.ndarray) -> bool:
    """Whether no more than a share of `level` of the runs ever decided, give or take 3 sd."""
    runs = len(decided)
    return decided.any(axis=1).mean() <= level + 3 * math.sqrt(level * (1 - level) / runs)


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


RAMP = np.repeat([100, 500, 1000, 2500, 5000], 20)
INCIDENT = 0.005 * (1 + 0.8 * np.sin(np.arange(100) / 20))
INCIDENT[40:45] = 0.2
GUARDED = replace(METRIC, max_rate=0.05)
"""The relative test and the absolute guard share its alpha; the incident is above the guard."""


@pytest.mark.parametrize("ratio", [1.0, 1.2])
@pytest.mark.parametrize("assignment", ["random", "round-robin"])
def test_false_rollback_stays_below_alpha_through_ramps_and_incidents(ratio, assignment):
    rng = np.random.default_rng(20261122)
    if assignment == "random":
        canary, canaries = traffic(rng, 20_000, RAMP, INCIDENT, ratio)
    else:
        shares = np.rint(600 * RAMP / TOTAL).astype(int)
        canary, canaries = split(rng, np.tile(shares, (20_000, 1)), RAMP, INCIDENT, ratio)
    assert at_most(METRIC.alpha, canaries.rolled_back(METRIC, TOLERANCE, canary))
    bold, tolerance = replace(METRIC, alpha=0.5), replace(TOLERANCE, min_bad_events=1)
    decided = canaries.rolled_back(bold, tolerance, canary)
    assert decided.any(), "the level is large enough for the rate to be seen"
    assert at_most(bold.alpha, decided)


def test_false_rollback_of_a_canary_at_both_limits():
    """Exactly `harm_ratio` times as bad as stable and exactly at `max_rate`: wrong in two ways."""
    metric, tolerance = replace(GUARDED, alpha=0.1), replace(TOLERANCE, min_bad_events=1)
    rng = np.random.default_rng(4)
    canary, canaries = traffic(rng, 600, RAMP, np.full(100, 0.05 / 1.2), 1.2)
    decided = canaries.rolled_back(metric, tolerance, canary)
    assert decided.any(), "the level is large enough for the rate to be seen"
    assert at_most(metric.alpha, decided)


def test_false_pass_at_the_margin_stays_below_beta():
    rng = np.random.default_rng(20261122)
    _, canaries = traffic(rng, 1000, np.full(100, 5000), np.full(100, 0.005), 1.5)
    decided = canaries.log_pass(METRIC) >= math.log(1 / TOLERANCE.beta)
    assert decided.any(), "the level is large enough for the rate to be seen"
    assert at_most(TOLERANCE.beta, decided)


@pytest.mark.parametrize("metric", [METRIC, GUARDED, replace(METRIC, event="low", alpha=0.9)])
def test_assess_decides_at_every_look_as_the_simulation_does(metric):
    """The simulation is judged by the functions that `assess` calls, over the same segments."""
    rng = np.random.default_rng(5)
    canary, canaries = traffic(rng, 2, RAMP, INCIDENT, 4.0)
    harm, passed = canaries.log_harm(metric), canaries.log_pass(metric)
    rolled_back = canaries.rolled_back(metric, TOLERANCE, canary)
    assert rolled_back.any()
    for run in range(2):
        segments = ()
        for look, weight in enumerate(RAMP):
            trials = int(600 - canary[run, look]), int(canary[run, look])
            bad = tuple(canaries.losses[run, look, 0].astype(int).tolist())
            losses = ((LEVELS, *bad),) if any(bad) else ()
            segments = extend(segments, Segment(0, look // 20, int(weight), trials, trials, losses))
            found = assess(metric, segments, TOLERANCE, look // 20)
            assert math.isclose(found.log_e_harm, harm[run, look], rel_tol=1e-9, abs_tol=1e-9)
            assert math.isclose(found.log_e_pass, passed[run, look], rel_tol=1e-9, abs_tol=1e-9)
            if not found.stable_unhealthy:
                assert (found.verdict == "harm") == rolled_back[run, look]


def test_false_rollback_and_false_pass_on_fractional_losses():
    """Losses of a missed event (1) and of a false alarm (6/20), mean ratio exactly at the null."""
    metric = Metric("wrong", "wrong", 1.1, 1.25, None, 0.01)
    rng = np.random.default_rng(11)
    runs, days, rows = 400, 14, 500
    canary = rng.binomial(rows, 0.5, (runs, days))

    def month(ratio: float) -> Canaries:
        arms = ((rows - canary, 1.0), (canary, ratio))
        alarms, missed = (
            np.stack([rng.binomial(n, rate * scale) for n, scale in arms], axis=-1)
            for rate in (0.25, 0.08)
        )
        losses = np.stack([alarms, missed], axis=2).astype(float)
        return Canaries([5000] * days, [rows] * days, losses, levels=(0.3, 1.0))

    assert at_most(0.01, month(1.1).rolled_back(metric, TOLERANCE, canary))
    assert at_most(0.05, month(1.25).log_pass(metric) >= math.log(20))


def test_power_floor():
    """Weight 5 %, base 0.5 %, 600 requests a minute: x3 is found in most runs within 100 min."""
    rng = np.random.default_rng(2)
    weights = np.full(100, 500)
    canary, canaries = traffic(rng, 300, weights, np.full(100, 0.005), 3.0)
    assert canaries.rolled_back(METRIC, TOLERANCE, canary).any(axis=1).mean() > 0.75
    canary, canaries = traffic(rng, 300, weights, np.full(100, 0.005), 10.0)
    found = canaries.rolled_back(METRIC, TOLERANCE, canary)
    assert found[:, :10].any(axis=1).mean() > 0.9


WANTED = Metric("low", "low", 10, 20, None, 0.0005)


def test_a_wanted_event_is_an_unwanted_one_with_the_arms_exchanged():
    unwanted = replace(WANTED, event="error")
    rng = np.random.default_rng(6)
    for weight, stable, canary in rng.integers(1, (9999, 400, 400), (30, 3)).tolist():
        mirrored = TOTAL - weight, canary, stable
        wanted, plain = (
            assess(
                metric,
                (Segment(0, 1, w, (900, 900), (900, 900), ((LEVELS, s, c),)),),
                replace(TOLERANCE, srm_alpha=1e-300),
                1,
            )
            for metric, (w, s, c) in ((WANTED, (weight, stable, canary)), (unwanted, mirrored))
        )
        assert math.isclose(wanted.log_e_harm, plain.log_e_harm, rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(wanted.log_e_pass, plain.log_e_pass, rel_tol=1e-9, abs_tol=1e-9)
        assert wanted.verdict == plain.verdict


def test_a_model_with_one_score_is_harm_and_one_that_leans_is_not():
    """A quarter of stable's scores is low; of the canary's none, or exactly a tenth of that."""
    rng = np.random.default_rng(7)
    weights, rate = np.repeat([500, 2500, 5000], [2, 4, 20]), np.full(26, 0.25)
    canary, collapsed = traffic(rng, 200, weights, rate, 0.0)
    found = collapsed.rolled_back(WANTED, TOLERANCE, canary)
    assert found[:, :12].any(axis=1).all()
    canary, leaning = traffic(rng, 1000, weights, rate, 0.1)
    assert at_most(WANTED.alpha, leaning.rolled_back(WANTED, TOLERANCE, canary))
    one = leaning.rolled_back(replace(WANTED, alpha=0.5), TOLERANCE, canary)
    assert one.any(), "the level is large enough for the rate to be seen"
    assert at_most(0.5, one)


def test_late_harm_is_found_sooner_by_the_restarting_test():
    healthy, sick = (4000, 450), (10, 50)
    past = [Segment(k, 1, 1000, (1, 1), (1, 1), ((LEVELS, *healthy),)) for k in range(5)]
    new = Segment(5, 1, 1000, (1, 1), (1, 1), ((LEVELS, *sick),))
    losses = np.array([[s.losses[0][1:]] for s in [*past, new]], dtype=float)
    ratios = alternatives(1.2, "harm")
    wealth = log_wealth(np.full(6, 0.1), WHOLE, losses, ratios, 1.2)
    assert log_mean_exp(wealth.sum(axis=0)) < 0 < math.log(100)
    assert log_restarts(wealth, np.arange(6)) > math.log(100)


windows = st.lists(
    st.tuples(
        st.sampled_from([500, 5000]), st.integers(100, 3000), st.integers(0, 50), st.integers(0, 20)
    ),
    min_size=6,
    max_size=14,
)
STATE = TypeAdapter(State)


@given(windows)
@settings(max_examples=25)
def test_evidence_that_went_through_the_store_is_that_of_the_raw_windows(raw):
    """Each window is added to what the store gave back; the log wealth is summed afresh."""
    tolerance = replace(TOLERANCE, srm_alpha=1e-300)
    ordered = [*sorted(raw), (5000, 6000, 40, 40), (5000, 6000, 40, 40)]
    stored = STATE.dump_json(State())
    for weight, requests, stable, canary in ordered:
        series = STATE.validate_json(stored).attempt
        segments = series.evidence.series["errors"] if series else ()
        losses = ((LEVELS, stable, canary),) if stable or canary else ()
        trials = arms(weight, requests)
        piece = Segment(0, weight, weight, trials, trials, losses)
        stored = STATE.dump_json(holding(extend(segments, piece)))
    streamed = STATE.validate_json(stored).attempt.evidence.series["errors"]
    found = assess(METRIC, streamed, tolerance, 5000)

    weights = np.array([w / TOTAL for w, *_ in ordered])
    bad = np.array([[w[2:]] for w in ordered], dtype=float)
    passing = log_wealth(weights, WHOLE, bad, alternatives(1.5, "pass"), 1.5).sum(axis=0)
    assert math.isclose(found.log_e_pass, log_mean_exp(passing), rel_tol=1e-9, abs_tol=1e-9)
    starts = cuts([window[:2] for window in ordered])
    assert len(streamed) == len(starts) >= 2
    wealth = log_wealth(weights, WHOLE, bad, alternatives(1.2, "harm"), 1.2)
    capital = [1 / ((k + 1) * (k + 2)) for k in range(len(starts))]
    bets = [np.exp(wealth[first:].sum(axis=0)).mean() for first in starts]
    by_hand = sum(c * e for c, e in zip(capital, bets, strict=True)) + 1 / (len(starts) + 1)
    assert math.isclose(found.log_e_harm, math.log(by_hand), rel_tol=1e-9, abs_tol=1e-9)
    assert found.trials == tuple(np.array([arms(*window[:2]) for window in ordered]).sum(axis=0))


def arms(weight: int, requests: int) -> tuple[int, int]:
    """Requests of stable and of the canary, split exactly as the weight says."""
    canary = requests * weight // TOTAL
    return requests - canary, canary


def holding(segments: tuple[Segment, ...]) -> State:
    """A state as the controller stores it, with these segments."""
    evidence = Evidence(series={"errors": segments})
    return State(attempt=Attempt(1, revision("v2"), plan(), 1, START, evidence=evidence))


def cuts(trials: list[tuple[int, int]]) -> list[int]:
    """First window of each segment: a new weight, or 5,000 requests before it."""
    starts, weight, seen = [], None, 0
    for number, (now, requests) in enumerate(trials):
        if now != weight or seen >= 5000:
            starts.append(number)
            weight, seen = now, 0
        seen += requests
    return starts


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.0001, 0.05, 0.5]))
@settings(max_examples=60)
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
