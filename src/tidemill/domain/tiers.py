"""The tiers: pure rules on a window's counts, each returning findings with numbers and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill.domain.drift import noise_bound, psi, psi_bound, weighted_share
from tidemill.domain.performance import Gaps
from tidemill.domain.profile import FeatureProfile, Profile
from tidemill.domain.verdicts import Finding, Tier, TierResult

__all__ = [
    "ColumnCounts",
    "check_contract",
    "check_features",
    "check_mismatches",
    "check_performance",
    "check_quality",
    "feature_psi",
]

VOLUME = 0.7
"""T0: share of the expected rows below which the volume itself is a finding."""
RANGE = 0.01
"""T0: share of rows outside the declared range."""
UNSEEN_NOTE = 0.01
"""T1: share of unseen categories that is noted without naming a cause."""


@dataclass(frozen=True, slots=True)
class ColumnCounts:
    """One logged column in one window, counted with the reference's bins."""

    name: str
    problem: str = ""
    """Why the column cannot be counted: absent, or its type; the other fields are empty then."""
    bins: tuple[int, ...] = ()
    median: float | None = None
    unseen: Mapping[str, int] | None = None
    """Categories that the training period never had, and their rows."""
    outside: int = 0
    """Rows outside the declared range."""

    @property
    def rows(self) -> int:
        """Rows counted."""
        return sum(self.bins)

    @property
    def null_share(self) -> float:
        """Share of nulls."""
        return self.bins[-1] / self.rows if self.rows else 1.0


Counted = Sequence[tuple[ColumnCounts, FeatureProfile]]


def check_contract(
    columns: Counted, *, rows: int, expected_rows: float | None, unreadable: Sequence[str] = ()
) -> TierResult:
    """T0: columns, types, values in range, volume; `expected_rows` None means not yet known."""
    found = [
        Finding("T0", "unreadable", "", 1, 0, f"log file {name} cannot be read")
        for name in unreadable
    ]
    for column, reference in columns:
        found += _contract_of(column, reference)
    if expected_rows is not None and rows < VOLUME * expected_rows:
        text = f"{rows} rows, {rows / expected_rows:.0%} of the {expected_rows:.0f} expected"
        found.append(Finding("T0", "volume", "", rows, VOLUME * expected_rows, text))
    return TierResult("T0", tuple(found))


def _contract_of(column: ColumnCounts, reference: FeatureProfile) -> list[Finding]:
    name = column.name
    if column.problem:
        return [Finding("T0", "column", name, 1, 0, f"{name} {column.problem}")]
    if column.null_share == 1 and reference.null_max < 1:
        text = f"{name} is null in all {column.rows} rows"
        return [Finding("T0", "all_null", name, 1, reference.null_max, text)]
    share = column.outside / max(column.rows, 1)
    if share > RANGE:
        text = f"{name} is outside its declared range in {share:.1%} of rows"
        return [Finding("T0", "range", name, share, RANGE, text)]
    return []


def check_quality(
    columns: Counted,
    *,
    previous: Mapping[str, float],
    typical: Mapping[str, float],
    levels: Mapping[str, float],
    distance: float,
    null_margin: float,
    unseen_share: float,
    jump_factor: float,
) -> tuple[TierResult, dict[str, float]]:
    """T1: null shares, unseen categories, jumps of medians; also returns the latched levels.

    `previous` holds the medians of the window just before (empty if there is none), `typical` those
    of the last days: a fall from a storm's level back to the usual one is no fault. A median may
    move as much per window as it did in control; `distance` is how many windows lie between the
    middles of the previous one and this one, more than one where either was extended. A jump is
    visible once, so it latches: `levels` holds the usual medians that have not returned since.
    """
    found: list[Finding] = []
    held: dict[str, float] = {}
    for column, reference in columns:
        if column.problem or not column.rows:
            continue
        found += _nulls(column, reference, null_margin) + _unseen(column, unseen_share)
        before = _levels_before(column.name, previous, typical, levels)
        jump = _jump(column, reference, before, jump_factor * max(distance, 1.0))
        if jump:
            found.append(jump)
            held[column.name] = before[-1]
    return TierResult("T1", tuple(found)), held


def _nulls(column: ColumnCounts, reference: FeatureProfile, margin: float) -> list[Finding]:
    bound = reference.null_max + margin
    if column.null_share <= bound:
        return []
    text = (
        f"{column.name} is null in {column.null_share:.1%} of rows, in control"
        f" {reference.null_max:.1%} at most"
    )
    return [Finding("T1", "nulls", column.name, column.null_share, bound, text)]


def _unseen(column: ColumnCounts, bound: float) -> list[Finding]:
    unseen = column.unseen or {}
    share = sum(unseen.values()) / max(column.rows, 1)
    if share <= UNSEEN_NOTE:
        return []
    names = ", ".join(sorted(unseen, key=lambda name: -unseen[name])[:3])
    text = f"{column.name} has values never seen in training in {share:.1%} of rows: {names}"
    return [Finding("T1", "unseen", column.name, share, bound, text, page=share > bound)]


def _levels_before(
    name: str,
    previous: Mapping[str, float],
    typical: Mapping[str, float],
    levels: Mapping[str, float],
) -> tuple[float, ...]:
    if name in levels:
        return (levels[name],)
    if name not in previous:
        return ()
    return (previous[name], typical.get(name, previous[name]))


def _jump(
    column: ColumnCounts, reference: FeatureProfile, before: Sequence[float], factor: float
) -> Finding | None:
    bound = factor * reference.jump_max
    if not before or column.median is None or bound == 0:
        return None
    jump = min(abs(column.median - level) for level in before)
    if jump <= bound:
        return None
    text = (
        f"median of {column.name} went from {before[-1]:.4g} to {column.median:.4g}; in control it"
        f" moved {reference.jump_max:.4g} at most from one window to the next"
    )
    return Finding("T1", "jump", column.name, jump, bound, text)


def check_mismatches(
    tier: Tier, compared: Mapping[str, tuple[int, int]], bound: float, what: str
) -> TierResult:
    """T2, T3: per column the rows compared and how many differ; `what` says from what."""
    if not any(rows for rows, _ in compared.values()):
        return TierResult(tier, unevaluated="no row could be compared")
    found = [
        Finding(
            tier,
            "mismatch",
            name,
            differ / rows,
            bound,
            f"{name} {what} in {differ / rows:.1%} of {rows} rows",
        )
        for name, (rows, differ) in compared.items()
        if rows and differ / rows > bound
    ]
    return TierResult(tier, tuple(found))


def check_performance(found: Gaps, score: Gaps, *, bound: float, labels: int) -> TierResult:
    """T4: the pooled gaps and their z against in-control pools."""
    names = {"logloss": "log-loss", "rate": "event rate", "auc": "AUC"}
    beyond = [
        Finding(
            "T4",
            key,
            "",
            z,
            bound,
            f"{names[key]} is {gap:+.4f} from what the scores promise over {labels} labels"
            f" ({z:+.1f} standard deviations of in-control pools)",
        )
        for key, gap, z in zip(Gaps._fields, found, score, strict=True)
        if abs(z) > bound
    ]
    return TierResult("T4", tuple(beyond))


def feature_psi(column: ColumnCounts, reference: FeatureProfile) -> float:
    """Return the qPSI of a counted column against its reference."""
    return psi(reference.counts, column.bins)


def check_features(
    columns: Counted,
    profile: Profile,
    *,
    factor: float,
    floor: float,
    share: float,
    mix: Sequence[str],
) -> TierResult:
    """T5: importance-weighted share of drifted features, and each traffic-mix column by itself."""
    counted = [(c, r) for c, r in columns if not c.problem and c.rows]
    drifted = [
        _drift(column, reference, len(profile.features), factor, floor, column.name in mix)
        for column, reference in counted
    ]
    weight = weighted_share([f is not None for f in drifted], [r.importance for _, r in counted])
    found = [finding for finding in drifted if finding]
    if weight >= share:
        text = f"{len(found)} of {len(counted)} features drifted, {weight:.0%} by importance"
        found.append(Finding("T5", "share", "", weight, share, text))
    return TierResult("T5", tuple(found))


def _drift(
    column: ColumnCounts,
    reference: FeatureProfile,
    features: int,
    factor: float,
    floor: float,
    mix: bool,
) -> Finding | None:
    noise = noise_bound(sum(reference.counts), column.rows, len(column.bins), features)
    bound = psi_bound(reference.psi_max, noise, factor=factor, floor=floor)
    value = feature_psi(column, reference)
    if value <= bound:
        return None
    text = f"{column.name} has qPSI {value:.2f}, bound {bound:.2f}"
    return Finding("T5", "mix" if mix else "drift", column.name, value, bound, text, page=mix)
