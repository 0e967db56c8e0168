"""What an attempt knows of its pairs: requests that both arms answered, the canary as a shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tidemill.domain.paired import Tally

__all__ = ["Cursor", "Pairing", "Pairs", "add_pairs"]

Cursor = tuple[str, int]
"""A server's start, and how many of its answers are consumed."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """One look at the pairs: what has been compared since the cursor, and the cursor after it."""

    answered: int = 0
    """Requests that stable answered, mirrored or not."""
    matched: int = 0
    """Mirrored requests that both arms answered."""
    altered: int = 0
    """Mirrored requests whose id stable knows, with other content."""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    """By metric."""
    cursor: Mapping[str, Cursor] = field(default_factory=dict)
    """By server, of both arms."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """All that an attempt remembers of its pairs; sums alone, never a request."""

    due: float = 0.0
    """Requests that should have been mirrored, by the share in force and what stable answered."""
    matched: int = 0
    altered: int = 0
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    cursor: Mapping[str, Cursor] = field(default_factory=dict)
    """Empty after a change of the route: what came before it is not compared."""

    @property
    def lost(self) -> float:
        """Share of the mirrored requests of which no pair was made, whatever the cause."""
        return max(0.0, 1 - self.matched / self.due) if self.due else 0.0


def add_pairs(pairing: Pairing, pairs: Pairs, share: float) -> Pairing:
    """Consume a look, of requests mirrored with the chance `share`; the first sets the cursor."""
    if not pairing.cursor:
        return replace(pairing, cursor=pairs.cursor)
    names = pairing.tallies.keys() | pairs.tallies.keys()
    return Pairing(
        due=pairing.due + share * pairs.answered,
        matched=pairing.matched + pairs.matched,
        altered=pairing.altered + pairs.altered,
        tallies={name: _sum(name, pairing.tallies, pairs.tallies) for name in sorted(names)},
        cursor=pairs.cursor,
    )


def _sum(name: str, before: Mapping[str, Tally], more: Mapping[str, Tally]) -> Tally:
    (pairs, events), (further, found) = before.get(name, (0, 0)), more.get(name, (0, 0))
    return pairs + further, events + found
