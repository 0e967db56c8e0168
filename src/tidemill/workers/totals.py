"""The counters of all workers as one: what each counted, and what those counted that are gone.

A sum of counters never goes backwards while a worker shows them: what one had counted when it
ended, unloaded a model or began anew is kept. What no worker shows any more is forgotten, as one
process forgets the counters of a model that it unloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

__all__ = ["Family", "Sample", "Totals"]

HELD, LOST = "tidemill_log_held_rows", "tidemill_log_lost_total"
"""Rows that a worker held for the prediction log when it was killed are lost."""
EARLIEST = frozenset({"tidemill_start_time_seconds", "process_start_time_seconds"})
LARGEST = frozenset(
    {
        "tidemill_build_info",
        "tidemill_store_open",
        "tidemill_model_trained_timestamp_seconds",
        "process_max_fds",
    }
)
"""Gauges that are no sum over the workers; all others are."""


class Sample(Struct, array_like=True):
    """One number of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, array_like=True):
    """One metric of Prometheus with its samples."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    text: str
    samples: list[Sample]


class Key(NamedTuple):
    """What tells a sample from all others."""

    name: str
    labels: tuple[tuple[str, str], ...]


Counts = dict[Key, float]


class Totals:
    """What all workers of one server count."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._seen: dict[int, Counts] = {}
        self._kept: Counts = {}
        """Of counters what was counted by who is gone; of starts the earliest."""

    def take(self, worker: int, families: Iterable[Family]) -> None:
        """Take what a worker counts now, in place of what it told before."""
        found: Counts = {}
        for family in families:
            self._families[family.name] = Family(family.name, family.kind, family.text, [])
            for sample in family.samples:
                found[Key(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
        for key, before in self._seen.get(worker, {}).items():
            fell = self._counted(key) and found.get(key, 0.0) < before
            if fell or key.name in EARLIEST:
                self._keep(key, before)
        self._seen[worker] = found
        shown = set().union(*self._seen.values())
        self._kept = {key: value for key, value in self._kept.items() if key in shown}

    def retire(self, worker: int) -> None:
        """Keep what a worker counted that has ended; its rows that were not stored are lost."""
        for key, value in self._seen.pop(worker, {}).items():
            if key.name == HELD:
                self._keep(Key(LOST, key.labels), value)
            elif self._counted(key) or key.name in EARLIEST:
                self._keep(key, value)

    def merged(self) -> list[Family]:
        """Return every family as all workers together have it."""
        sums: Counts = {}
        for counts in (*self._seen.values(), self._kept):
            for key, value in counts.items():
                sums[key] = _merge(key.name, sums[key], value) if key in sums else value
        found: dict[str, list[Sample]] = {name: [] for name in self._families}
        for key, value in sums.items():
            found[self._family(key.name).name].append(Sample(key.name, dict(key.labels), value))
        return [
            Family(family.name, family.kind, family.text, found[name])
            for name, family in self._families.items()
        ]

    def _keep(self, key: Key, value: float) -> None:
        kept = self._kept
        kept[key] = _merge(key.name, kept[key], value) if key in kept else value

    def _counted(self, key: Key) -> bool:
        return self._family(key.name).kind != "gauge"

    def _family(self, sample: str) -> Family:
        """Return the family of a sample, whose name may have an ending."""
        families = self._families
        return families[sample] if sample in families else families[sample.rpartition("_")[0]]


def _merge(name: str, one: float, other: float) -> float:
    if name in EARLIEST:
        return min(one, other)
    return max(one, other) if name in LARGEST else one + other
