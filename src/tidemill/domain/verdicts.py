"""What a judged window says: findings, the state of each tier, the named cause.

T0 contract      columns, types, ranges, volume          page
T1 data quality  nulls, unseen categories, jumps         page
T2 replay        logged inputs scored again              page
T3 skew          served features recomputed offline      page
T4 performance   matured labels against expectation      ticket, retraining request
T5 features      distributions against the reference     information
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "TIERS",
    "Cause",
    "Finding",
    "Status",
    "Tier",
    "TierResult",
    "WindowVerdict",
]

Tier = Literal["T0", "T1", "T2", "T3", "T4", "T5"]
TIERS: tuple[Tier, ...] = ("T0", "T1", "T2", "T3", "T4", "T5")
Cause = Literal["none", "code_bug", "data_quality", "skew", "concept_drift", "covariate_shift"]
Status = Literal["judged", "extended", "not_evaluable"]
"""`extended`: too few rows, so the next window begins where this one did. `not_evaluable`: nothing
could be judged; `unevaluated` says why. Neither is ever read as health."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One number beyond its bound."""

    tier: Tier
    rule: str
    column: str
    value: float
    bound: float
    text: str
    """The finding in one line, numbers and units included."""
    page: bool = True
    """False for a note: reported, but no cause is named for it."""

    @property
    def excess(self) -> float:
        """How far beyond the bound, as a ratio; orders findings."""
        return abs(self.value) / max(abs(self.bound), 1e-9)


@dataclass(frozen=True, slots=True)
class TierResult:
    """What one tier says of one window."""

    tier: Tier
    findings: tuple[Finding, ...] = ()
    unevaluated: str = ""
    """Why the tier could not be judged; empty if it was."""

    @property
    def fired(self) -> bool:
        """Whether a finding names a cause."""
        return any(finding.page for finding in self.findings)


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """One window of one model, judged against the profile of the revision that served it."""

    model: str
    revision: str
    start: str
    """ISO 8601, UTC, inclusive."""
    end: str
    """ISO 8601, UTC, exclusive."""
    rows: int
    """Rows of `revision`."""
    volume: int
    """Rows of all revisions in the last `window_hours` of the window."""
    status: Status
    cause: Cause = "none"
    hypotheses: tuple[Cause, ...] = ()
    """Other causes that the same numbers allow."""
    fired: tuple[Tier, ...] = ()
    raised: tuple[Tier, ...] = ()
    """Tiers that fired often enough to count: at once for T0 to T3, k of n for T4 and T5."""
    unevaluated: Mapping[str, str] = field(default_factory=dict)
    """Tier → why it could not be judged."""
    findings: tuple[Finding, ...] = ()
    retraining: bool = False
    """Whether the cause is one that retraining mends, with every fault excluded."""
    medians: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    """Columns that jumped, and the median to which they have to return."""
    psi: Mapping[str, float] = field(default_factory=dict)
    """qPSI of each column and of `score` against the reference."""
    performance: Mapping[str, float] = field(default_factory=dict)
    """T4's numbers: labels, gaps and z of the pool; empty when it was not judged."""

    def top(self, count: int = 3) -> tuple[Finding, ...]:
        """Return the findings that speak most for the cause: pages first, then by excess."""
        return tuple(sorted(self.findings, key=lambda f: (not f.page, -f.excess))[:count])
