"""Feature drift: bins of the reference, the population stability index over them, its bounds.

qPSI bins by quantiles of the *reference*, keeps nulls and rare categories in bins of their own and
smooths by half a row per bin. So it is bounded, sees nulls, and one outlier cannot hide a shift:
the faults of the usual index, which bins the pooled values by equal width and drops nulls first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "Bins",
    "category_bins",
    "noise_bound",
    "numeric_bins",
    "psi",
    "psi_bound",
    "weighted_share",
]

BINS = 10
RARE = 0.01
"""A category with a smaller share of the reference shares the bin `other`."""
LEVEL = 0.01
"""Family-wise level of the noise bound over all features."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Strings = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Bins:
    """How one column is counted; see `profile.FeatureProfile`."""

    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    numeric: bool = True

    def __len__(self) -> int:
        return (len(self.edges) if self.numeric else len(self.categories)) + 2

    def index(self, values: Floats | Strings) -> Counts:
        """Return the bin of each value; null is NaN (numbers) or None (categories)."""
        if self.numeric:
            numbers = np.asarray(values, dtype=np.float64)
            bins = np.searchsorted(np.asarray(self.edges), numbers, side="left")
            return np.where(np.isnan(numbers), len(self) - 1, bins)
        places = {name: i for i, name in enumerate(self.categories)}
        other, null = len(self.categories), len(self) - 1
        return np.fromiter(
            (null if v is None else places.get(v, other) for v in values), np.int64, len(values)
        )

    def count(self, values: Floats | Strings) -> Counts:
        """Return the rows per bin."""
        return np.bincount(self.index(values), minlength=len(self))


def numeric_bins(values: Floats) -> Bins:
    """Return bins at the deciles of `values`; repeated deciles merge."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return Bins()
    cuts = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    return Bins(edges=tuple(float(c) for c in cuts if c < known.max()))


def category_bins(names: Sequence[str], counts: Sequence[int]) -> Bins:
    """Return a bin for each category that is not rare."""
    total = sum(counts)
    common = (name for name, n in zip(names, counts, strict=True) if n >= RARE * total)
    return Bins(categories=tuple(sorted(common)), numeric=False)


def psi(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Return the population stability index of two count vectors over the same bins.

    Half a row is added to every bin, so that an empty one stays finite.
    """
    p, q = (_shares(np.asarray(c, dtype=np.float64)) for c in (reference, current))
    return float(np.sum((p - q) * np.log(p / q)))


def _shares(counts: Floats) -> Floats:
    smooth: Floats = counts + 0.5
    return np.asarray(smooth / smooth.sum(), dtype=np.float64)


def noise_bound(reference: int, current: int, bins: int, features: int) -> float:
    """Return the index that chance alone exceeds in any of `features` with probability `LEVEL`.

    Under equal distributions psi / (1/n + 1/m) is about chi-squared with bins - 1 degrees of
    freedom; its quantile is taken by Wilson and Hilferty's cube-root approximation.
    """
    degrees = max(bins - 1, 1)
    z = NormalDist().inv_cdf(1 - LEVEL / max(features, 1))
    spread = 2 / (9 * degrees)
    quantile = degrees * (1 - spread + z * spread**0.5) ** 3
    return float(quantile * (1 / max(reference, 1) + 1 / max(current, 1)))


def psi_bound(in_control: float, noise: float, *, factor: float, floor: float) -> float:
    """Return the index above which a feature counts as drifted."""
    return max(factor * in_control, noise, floor)


def weighted_share(drifted: Sequence[bool], importance: Sequence[float]) -> float:
    """Return the share of drifted features, each weighted by its importance."""
    total = sum(importance)
    if total <= 0:
        return float(np.mean(drifted)) if drifted else 0.0
    return sum(w for hit, w in zip(drifted, importance, strict=True) if hit) / total
