"""A tracker that remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MemoryTracker"]


@dataclass
class MemoryTracker:
    """Keeps what was recorded; writing a parameter twice is an error, as in MLflow."""

    params: dict[str, str | int | float | bool] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Name → `(step, value)` in the order of arrival."""
    tags: dict[str, str] = field(default_factory=dict)

    def log_params(self, params: Mapping[str, str | int | float | bool]) -> None:
        """Record parameters; raises ValueError when one changes."""
        changed = [name for name in params if self.params.get(name, params[name]) != params[name]]
        if changed:
            raise ValueError(f"parameters were already recorded with another value: {changed}")
        self.params.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at a step."""
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append((step, value))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach tags; a later value replaces an earlier one."""
        self.tags.update(tags)
