"""The gates: their algebra, and how often they are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from benchmarks import gates
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill.domain.bootstrap import block_means
from tidemill.domain.gates import (
    SliceFigures,
    Verdict,
    beats,
    enough_rows,
    judge_slices,
    no_champion,
    non_inferior,
    passed,
    within,
)
from tidemill.domain.metrics import measure
from tidemill.settings.model import GateSettings
from tidemill.steps.gate import judge
from tidemill.steps.parity import Parity

Floats = NDArray[np.float64]

DEFAULTS = GateSettings()
FINITE = st.floats(-1e3, 1e3)
SIZES = (0.2, 0.3, 0.5)
"""Error on the logit scale of a challenger whose champion has 0.3."""
LOSSES = st.lists(st.floats(-1, 1), min_size=4, max_size=60)


@given(value=FINITE, limit=FINITE)
def test_bounds_mean_what_they_say(value: float, limit: float) -> None:
    above = within("auc", f">= {limit!r}", value).status == "pass"
    below = within("auc", f"< {limit!r}", value).status == "pass"
    assert above == (value >= limit)
    assert above != below


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_unmeasured_metric_is_not_evaluable_and_does_not_pass(value: float | None) -> None:
    verdict = within("auc", ">= 0.6", value)
    assert verdict.status == "not_evaluable"
    assert not passed([within("auc", ">= 0.6", 0.7), verdict])


def test_a_bound_that_is_no_comparison_is_not_evaluable() -> None:
    for bound in ("about 0.6", ">= e", ">= 1-2", ">= .", ">=", ">= 0.6.2"):
        assert within("auc", bound, 0.7).status == "not_evaluable"


def test_no_verdict_is_no_pass() -> None:
    assert not passed([])
    assert passed([no_champion()])
    assert not passed([no_champion(), Verdict("x", "fail", "")])


@pytest.mark.parametrize(
    ("loss", "baseline", "status"),
    [(0.4, 0.5, "pass"), (0.5, 0.5, "fail"), (0.6, 0.5, "fail"), (0.4, None, "not_evaluable")],
)
def test_a_model_must_be_better_than_its_baseline(
    loss: float, baseline: float | None, status: str
) -> None:
    verdict = beats("logistic", loss, baseline)
    assert verdict.status == status
    assert "logistic" in verdict.sentence


@given(losses=LOSSES, seed=st.integers(0, 9), shift=st.floats(-1, 1))
def test_bootstrapped_means_move_with_the_losses(
    losses: list[float], seed: int, shift: float
) -> None:
    rows = np.array(losses)
    days = np.arange(len(rows)) // 4
    means = block_means(rows, days, 50, seed)
    assert (means >= rows.min() - 1e-9).all()
    assert (means <= rows.max() + 1e-9).all()
    np.testing.assert_allclose(block_means(rows + shift, days, 50, seed), means + shift, atol=1e-9)


@given(losses=LOSSES, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(losses: list[float], order: object) -> None:
    rows, days = np.array(losses), np.arange(len(losses)) // 4
    mixed = np.arange(len(rows))
    order.shuffle(mixed)  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        block_means(rows[mixed], days[mixed], 50, 1), block_means(rows, days, 50, 1), atol=1e-9
    )


def test_whole_days_are_drawn() -> None:
    """Rows of a day stay together: with two opposite days only three means are possible."""
    rows = np.array([1.0] * 10 + [-1.0] * 10)
    means = block_means(rows, np.repeat([5, 9], 10), 500, 3)
    assert set(means.tolist()) == {1.0, 0.0, -1.0}


def test_one_day_is_not_evaluable() -> None:
    means = block_means(np.full(9, -1.0), np.zeros(9, dtype=int), 200, 1)
    assert non_inferior(means, -1.0, 1, 0.003, 0.9).status == "not_evaluable"


@settings(max_examples=50)
@given(means=st.lists(st.floats(-0.1, 0.1), min_size=5, max_size=50), more=st.floats(0, 0.1))
def test_a_wider_margin_never_fails_what_a_narrow_one_passed(
    means: list[float], more: float
) -> None:
    sample = np.array(means)
    narrow = non_inferior(sample, float(sample.mean()), 7, 0.003, 0.9)
    wide = non_inferior(sample, float(sample.mean()), 7, 0.003 + more, 0.9)
    assert narrow.status == "fail" or wide.status == "pass"


def test_small_slices_are_not_judged_and_weak_ones_are_named() -> None:
    slices = [
        SliceFigures("UA", 5000, 1000, 0.7),
        SliceFigures("HA", 40, 3, 0.1),
        SliceFigures("MQ", 4000, 800, 0.45),
    ]
    verdict = judge_slices("carrier", slices, min_rows=500, min_auc=0.52)
    assert verdict.status == "fail"
    assert "MQ (0.450)" in verdict.sentence
    assert "HA" not in verdict.sentence
    assert verdict.numbers["judged"] == 2


def test_a_slice_at_the_bound_does_not_fail_by_chance() -> None:
    """An AUC of 0.50 on 600 rows is within two standard errors of 0.55, on 2000 it is not."""
    bound = DEFAULTS.slice_min_auc
    assert judge_slices("c", [SliceFigures("a", 600, 120, 0.5)], 500, bound).status == "pass"
    assert judge_slices("c", [SliceFigures("a", 500, 100, 0.48)], 500, bound).status == "fail"
    assert judge_slices("c", [SliceFigures("a", 2000, 400, 0.5)], 500, bound).status == "fail"


@pytest.mark.parametrize(
    "slices",
    [[], [SliceFigures("a", 10, 3, 0.9)], [SliceFigures("a", 900, 0, math.nan)]],
    ids=["none", "all small", "one class"],
)
def test_slices_without_evidence_are_not_evaluable(slices: list[SliceFigures]) -> None:
    assert judge_slices("c", slices, 500, 0.52).status == "not_evaluable"


def verdicts(score: Floats, label: Floats, carrier: Floats) -> dict[str, str]:
    """Return status by gate of scores in all but their champion, with the default settings."""
    figures = measure(score, label)
    prior = measure(np.full_like(label, label.mean()), label)
    slices = {
        str(value): {"rows": int(own.sum()), "events": int(label[own].sum())}
        | measure(score[own], label[own])
        for value in np.unique(carrier)
        for own in [carrier == value]
    }
    evaluation = {
        "models": {"model": figures, "prior": prior, "logistic": prior},
        "parity": Parity(15000, 15000, 9, 1e-7, 0).metrics(),
        "champion": None,
        "slices": {"carrier": slices},
    }
    settings = GateSettings(slices=["carrier"])
    return {v.gate: v.status for v in judge(evaluation, pl.DataFrame(), settings)}


def logistic(logit: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit))


@pytest.mark.parametrize(
    ("change", "stopped_by"),
    [
        (lambda logit, carrier: logit, set()),
        (lambda logit, carrier: 0 * logit, {"threshold/logloss", "threshold/auc"}),
        (lambda logit, carrier: 2 * logit, {"threshold/calibration_slope", "threshold/ece"}),
        (lambda logit, carrier: logit + 0.8, {"threshold/ece"}),
        (lambda logit, carrier: np.where(carrier == 5, logit[::-1], logit), {"slices/carrier"}),
    ],
    ids=["sound", "constant 0.5", "overconfident", "biased", "random in one slice of 2000 rows"],
)
def test_the_default_bounds_stop_bad_models(
    change: Callable[[Floats, Floats], Floats], stopped_by: set[str]
) -> None:
    """12,000 rows in six slices, as separable and as rare as late flights are."""
    random = np.random.default_rng(5)
    logit = random.normal(-1.5, 1.1, 12_000)
    carrier = np.arange(12_000) // 2000
    label = (random.random(12_000) < logistic(logit)).astype(np.float64)
    found = verdicts(logistic(change(logit, carrier)), label, carrier)
    assert stopped_by <= {gate for gate, status in found.items() if status != "pass"}
    assert (set(found.values()) == {"pass"}) == (not stopped_by)


def test_too_few_rows_of_parity_are_not_evaluable() -> None:
    assert enough_rows(15000.0, 15000.0).status == "pass"
    assert enough_rows(14999.0, 15000.0).status == "not_evaluable"
    assert enough_rows(None, 15000.0).status == "not_evaluable"
    assert enough_rows(15000.0, None).status == "not_evaluable"


@pytest.mark.slow
def test_how_often_the_champion_comparison_is_wrong() -> None:
    """On 14 days: a better challenger passes, an equal one mostly, a clearly worse one never."""
    rates = {sd: gates.rate(sd, 14, GateSettings(bootstrap_samples=500), 60) for sd in SIZES}
    passes = {sd: share for sd, (share, _) in rates.items()}
    differences = {sd: difference for sd, (_, difference) in rates.items()}
    assert differences[0.2] < -0.002
    assert passes[0.2] > 0.9
    assert abs(differences[0.3]) < 0.001
    assert 0.4 < passes[0.3] < 0.9
    assert differences[0.5] > 0.009
    assert passes[0.5] < 0.05
