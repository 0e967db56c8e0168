"""The paired block bootstrap: how sure is a difference between two models on the same rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["block_means"]


def block_means(
    difference: NDArray[np.floating], block: NDArray[np.integer], samples: int, seed: int
) -> NDArray[np.float64]:
    """Return `samples` bootstrapped means of a per-row difference, resampling whole blocks.

    Rows of one block (a day) share weather and incidents, so they are drawn together; the mean is
    over rows, so a longer day weighs more (Davison and Hinkley 1997, §3.8 and 8.2.3).
    """
    _, code = np.unique(block, return_inverse=True)
    sums = np.bincount(code, weights=difference.astype(np.float64))
    counts = np.bincount(code)
    draws = np.random.default_rng(seed).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), size=samples
    )
    return np.asarray((draws @ sums) / (draws @ counts))
