"""The record of a run: what was set, what was measured, what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Tracker"]


class Tracker(Protocol):
    """One open run of an experiment.

    Metric names use `A-Z a-z 0-9 _ - . : / space` alone, e.g. `slice/carrier/UA/auc`.
    Every method raises Unavailable when the record cannot be written.
    """

    def log_params(self, params: Mapping[str, str | int | float | bool]) -> None:
        """Record what the run was given; a name is written once."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record what was measured, at `step` of the run (for instance the epoch)."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach names to the run: lineage, correlation id, verdict."""
        ...
