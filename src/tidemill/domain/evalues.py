"""Anytime-valid tests for two arms: may be looked at, paused and resumed at any time.

A request goes to the canary with probability w, decided before anything else is known. Given that
a request turned out bad, the chance that it was the canary's is p(r) = w r / (w r + 1 - w), where r
is the ratio of the arms' bad rates: whatever else moves both rates cancels. Testing r is then
testing a coin (Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS
2022, arXiv 2011.03567).

A bad event of size l in [0, 1] multiplies the wealth by 1 + l (f - 1), f the factor of a whole
event. Its mean is still 1 at the null ratio of *mean losses*, so bounded losses need no other test.

Arrays: K segments, L loss levels, J alternatives; leading axes (`...`) are attempts judged at once.
Everything is in logarithms (nats), because wealth overflows and underflows; weights are floats in
(0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Floats",
    "Side",
    "alternatives",
    "log_guard",
    "log_mean_exp",
    "log_restarts",
    "log_sample_ratio",
    "log_wealth",
    "ratio_interval",
]

Floats = NDArray[np.float64]
Side = Literal["harm", "pass"]

ALTERNATIVES = 25
STEPS = {
    "harm": np.geomspace(1.1, 64.0, ALTERNATIVES),
    "pass": np.geomspace(1.1, 8.0, ALTERNATIVES),
}
CONCENTRATION = 1000.0
"""Of the sample-ratio test's prior around the nominal weight; about 3 percentage points at 50 %."""
WIDEST = 64.0


def alternatives(null: float, side: Side) -> Floats:
    """Return the ratios that are bet on against `null`: above it for harm, below it for pass."""
    return null * STEPS["harm"] if side == "harm" else null / STEPS["pass"]


def log_wealth(
    weights: Floats, levels: Floats, losses: Floats, ratios: Floats, null: float
) -> Floats:
    """Return per segment and alternative what its bad events add to the log wealth, `[..., K, J]`.

    `losses[..., K, L, 2]` counts events of size `levels[L]` on stable and canary.
    """
    canary, stable = _log_factors(weights, ratios, null)
    total = np.zeros((*losses.shape[:-2], len(ratios)))
    for index, level in enumerate(levels):
        total += losses[..., index, 1, None] * _shrink(canary, level)
        total += losses[..., index, 0, None] * _shrink(stable, level)
    return total


def _log_factors(weights: Floats, ratios: Floats, null: float) -> tuple[Floats, Floats]:
    """Return log p(r)/p(null) and log (1-p(r))/(1-p(null)), exact also for tiny weights."""
    w = weights[:, None]
    stable = np.log1p(w * (null - 1)) - np.log1p(w * (ratios - 1))
    return np.log(ratios / null) + stable, stable


def _shrink(log_factor: Floats, level: float) -> Floats:
    return log_factor if level == 1.0 else np.log1p(level * np.expm1(log_factor))


def log_mean_exp(values: Floats) -> Floats:
    """Return log(mean(exp(values))) over the last axis, without overflow."""
    peak = values.max(axis=-1)
    mean: Floats = peak + np.log(np.exp(values - peak[..., None]).mean(axis=-1))
    return mean


def log_restarts(wealth: Floats, ordinals: NDArray[np.int64]) -> Floats:
    """Return the log of an e-value that forgets, `[...]`: a mixture over starts at each segment.

    The start with ordinal k holds 1/((k+1)(k+2)) of the capital from the beginning, so harm that
    sets in late is not outweighed by a long healthy past. A start that was merged away counts as
    lost capital, which only makes the test more cautious. `wealth` is `log_wealth`'s result.
    """
    attempts = wealth.shape[:-2]
    if not len(ordinals):
        return np.zeros(attempts)
    since = np.cumsum(wealth[..., ::-1, :], axis=-2)[..., ::-1, :]
    spent = log_mean_exp(since) - np.log((ordinals + 1.0) * (ordinals + 2.0))
    unspent = np.full((*attempts, 1), -math.log(float(ordinals[-1]) + 2.0))
    mixture: Floats = np.logaddexp.reduce(np.concatenate([spent, unspent], axis=-1), axis=-1)
    return mixture


def log_guard(trials: ArrayLike, bad: ArrayLike, limit: float) -> Floats:
    """Return the log e-value against "the bad rate of this one arm is at most `limit`", `[...]`."""
    rates = limit + (1 - limit) * np.linspace(0.02, 0.98, ALTERNATIVES)
    gain = np.log(rates / limit)
    loss = np.log1p(-rates) - math.log1p(-limit)
    events = np.asarray(bad, dtype=np.float64)[..., None]
    return log_mean_exp(events * gain + (np.asarray(trials)[..., None] - events) * loss)


def log_sample_ratio(stable: int, canary: int, weight: float) -> float:
    """Return the log e-value against "each request is canary with chance `weight`".

    Beta-binomial mixture (Lindon and Malek), for any deviation in either direction.
    """
    a, b = CONCENTRATION * weight, CONCENTRATION * (1 - weight)
    mixture = _log_beta(a + canary, b + stable) - _log_beta(a, b)
    return mixture - canary * math.log(weight) - stable * math.log1p(-weight)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def ratio_interval(
    weights: Floats, levels: Floats, losses: Floats, alpha: float
) -> tuple[float, float]:
    """Return the ratios that the evidence does not exclude at level `alpha`, at any time.

    All of [1/64, 64] until there is evidence.
    """

    def excess(log_ratio: float) -> float:
        null = math.exp(log_ratio)
        bets = np.concatenate([alternatives(null, "pass"), alternatives(null, "harm")])
        wealth = log_wealth(weights, levels, losses, bets, null).sum(axis=0)
        return float(log_mean_exp(wealth)) - math.log(1 / alpha)

    if not losses.any():
        return 1 / WIDEST, WIDEST
    widest = math.log(WIDEST)
    middle = min(np.linspace(-widest, widest, 25), key=excess)
    return math.exp(_cross(excess, middle, -widest)), math.exp(_cross(excess, middle, widest))


def _cross(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Bisect for where `excess` turns positive between a ratio inside and one outside."""
    if excess(outside) < 0:
        return outside
    for _ in range(20):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if excess(middle) < 0 else (inside, middle)
    return (inside + outside) / 2
