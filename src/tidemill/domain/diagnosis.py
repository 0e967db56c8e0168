"""From tiers to one cause: the decision order of monitoring.

A fault of code or data explains everything that comes after it in the chain, so the order is:
replay mismatch → code_bug, contract or quality → data_quality, served differs from recomputed →
skew, performance gap → concept_drift, features → covariate_shift. Retraining mends the fourth
alone: on a fault it would learn the fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill.domain.verdicts import Cause, Finding, Tier, TierResult

__all__ = ["CAUSES", "FAULTS", "Diagnosis", "diagnose"]

CAUSES: Mapping[Cause, tuple[Tier, ...]] = {
    "code_bug": ("T2",),
    "data_quality": ("T0", "T1"),
    "skew": ("T3",),
    "concept_drift": ("T4",),
    "covariate_shift": ("T5",),
}
"""Cause → the tiers that name it, in the order of decision."""
FAULTS: tuple[Cause, ...] = ("code_bug", "data_quality", "skew")
"""Causes on which a model is never retrained."""
PERSISTENT: tuple[Tier, ...] = ("T4", "T5")
"""Tiers that have to fire k of n times; the others page at once, and latch."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The cause of a window."""

    cause: Cause
    hypotheses: tuple[Cause, ...]
    raised: tuple[Tier, ...]
    retraining: bool


def diagnose(
    results: Sequence[TierResult],
    history: Sequence[Sequence[Tier]],
    *,
    persistence: tuple[int, int],
) -> Diagnosis:
    """Name the cause of a window.

    `history` holds the tiers that fired in earlier windows of the same revision, oldest first.
    Less volume or jumping medians together with a shift of the traffic mix are a part of the
    traffic that left: the shift is the cause, bad data remains a hypothesis. Retraining is allowed
    for concept drift when every fault could be excluded; a tier that was not judged excludes none.
    """
    raised = tuple(r.tier for r in results if _raised(r, history, persistence))
    causes = [cause for cause, tiers in CAUSES.items() if set(tiers) & set(raised)]
    if _traffic_left(results) and causes in (["data_quality"], ["data_quality", "covariate_shift"]):
        causes = ["covariate_shift", "data_quality"]
        raised = tuple(dict.fromkeys((*raised, "T5")))
    fault_tiers = {tier for cause in FAULTS for tier in CAUSES[cause]}
    excluded = not any(r.unevaluated for r in results if r.tier in fault_tiers)
    cause: Cause = causes[0] if causes else "none"
    return Diagnosis(cause, tuple(causes[1:]), raised, cause == "concept_drift" and excluded)


def _raised(
    result: TierResult, history: Sequence[Sequence[Tier]], persistence: tuple[int, int]
) -> bool:
    if result.unevaluated or result.tier not in PERSISTENT:
        return result.fired
    needed, window = persistence
    recent = [result.tier in fired for fired in history[len(history) - (window - 1) :]]
    return result.fired + sum(recent) >= needed


def _traffic_left(results: Sequence[TierResult]) -> bool:
    pages = [finding for result in results for finding in result.findings if finding.page]
    faults = [finding for finding in pages if finding.tier in ("T0", "T1")]
    return bool(faults) and all(map(_follows, faults)) and any(f.rule == "mix" for f in pages)


def _follows(finding: Finding) -> bool:
    """Whether a finding may be a consequence of a part of the traffic leaving."""
    return finding.rule in ("volume", "jump")
