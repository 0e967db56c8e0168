"""The reference profile: what a model's training period looked like, as counts and maxima.

It is computed once per model version from out-of-fold predictions, cut into blocks as long as a
monitored window, and stored as `profile.json` in the bundle. Monitoring compares windows with
these numbers alone: it needs no training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FeatureProfile", "PerformanceProfile", "Profile"]


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """One model input over the training period.

    Bins are the quantile bins that `edges` delimit (numbers) or one bin per entry of `categories`
    and one for all others (categories); the last bin counts nulls.
    """

    name: str
    kind: Literal["numeric", "category"]
    edges: tuple[float, ...]
    """Inner edges; a value equal to an edge belongs to the bin below it."""
    categories: tuple[str, ...]
    """Categories with a bin of their own."""
    known: tuple[str, ...]
    """Every category of the training period."""
    counts: tuple[int, ...]
    """Rows per bin."""
    psi_max: float
    """Largest qPSI of one block against all others."""
    null_max: float
    """Largest null share of a block."""
    jump_max: float
    """Largest difference of the medians of two successive blocks (numbers)."""
    importance: float
    """Share of the score's variance that the bins explain, normalised to sum 1 over features."""


@dataclass(frozen=True, slots=True)
class PerformanceProfile:
    """How the model performed while nothing was wrong."""

    calibration: tuple[tuple[float, ...], tuple[float, ...]]
    """Knots of the isotonic calibrator: scores, and the event rates they stand for."""
    pool_days: int
    """Blocks per in-control pool."""
    pools: int
    """Number of (overlapping) in-control pools."""
    mean: tuple[float, float, float]
    """Mean gap over the pools: log-loss, event rate, AUC (`performance.Gaps`)."""
    sd: tuple[float, float, float]
    """Standard deviation of each gap over the pools."""
    auc: float
    """AUC of all out-of-fold predictions."""
    logloss: float
    """Log-loss of all out-of-fold predictions, nats."""
    rate: float
    """Share of events."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The reference of one model version."""

    rows: int
    blocks: int
    """In-control blocks behind every maximum."""
    block_hours: int
    start: str
    """First event timestamp, ISO 8601."""
    end: str
    """Last event timestamp, ISO 8601."""
    features: tuple[FeatureProfile, ...]
    score: FeatureProfile
    """The distribution of the score; reported, not judged: days differ too much."""
    performance: PerformanceProfile
    format: Literal[1] = 1
    """Version of this form; another one is refused."""
