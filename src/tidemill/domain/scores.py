"""The bins in which servers count their scores, and the tails by which two models are compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tidemill.domain.profile import FeatureProfile

__all__ = ["BOUNDS", "tails"]

BOUNDS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08,
    0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.28, 0.31, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65,
    0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0,
)  # fmt: skip
"""Upper bounds of the bins, fine where rates of events usually lie."""
TAIL = 0.25


def tails(score: FeatureProfile) -> tuple[float, float]:
    """Return the bounds nearest to the quartiles of a model's scores, as its profile knows them.

    A quarter of its scores is at most the first and a quarter above the second, as nearly as the
    profile's bins and `BOUNDS` allow. A model that has one score alone has no tails.
    """
    if not score.edges:
        return BOUNDS[0], BOUNDS[-1]
    known = sum(score.counts[:-1])
    shares = [count / known for count in accumulate(score.counts[:-2])]
    return _quantile(score.edges, shares, TAIL), _quantile(score.edges, shares, 1 - TAIL)


def _quantile(edges: Sequence[float], shares: Sequence[float], share: float) -> float:
    """Return the bound nearest to the edge whose share of the scores is nearest to `share`."""
    edge = min(zip(edges, shares, strict=True), key=lambda pair: abs(pair[1] - share))[0]
    return min(BOUNDS, key=lambda bound: abs(bound - edge))
