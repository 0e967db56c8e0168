"""Incidents: one per model revision and cause, from the first alarm to the last clean window."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from tidemill.domain.diagnosis import CAUSES, FAULTS
from tidemill.domain.verdicts import Cause, WindowVerdict
from tidemill.errors import Refused

__all__ = [
    "CLEAN_WINDOWS",
    "Incident",
    "IncidentState",
    "acknowledge",
    "observe",
    "resolve",
]

IncidentState = Literal["open", "acknowledged", "resolved"]
CLEAN_WINDOWS = 3
"""Successive windows without the cause after which an incident resolves itself."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What an on-call engineer is told, and what became of it. Instants are ISO 8601, UTC."""

    id: str
    """`inc-` and eight hex digits, the same for the same model, revision, cause and first window;
    also the correlation id of what the incident causes."""
    model: str
    revision: str
    cause: Cause
    hypotheses: tuple[Cause, ...]
    state: IncidentState
    opened_at: str
    first_seen: str
    """Start of the first window that raised it."""
    last_seen: str
    """End of the last window that raised it."""
    window: str
    """End of the last window that was considered: the same window never counts twice."""
    columns: tuple[str, ...]
    """Every column it was ever about."""
    numbers: tuple[str, ...]
    """The three findings that speak most for the cause, of the last window that raised it."""
    retraining: bool
    """Whether the last window that raised it allows retraining."""
    clean: int = 0
    """Successive clean windows so far."""
    report: str = ""
    """URL of the evidence report, or why there is none."""
    actor: str = ""
    """Who acknowledged or resolved it."""
    note: str = ""
    resolved_at: str = ""
    resolution: str = ""
    edits: int = 0
    """Number of writes, counted by the store; who saw fewer may not write."""

    @property
    def page(self) -> bool:
        """Whether somebody is paged; else it is a ticket."""
        return self.cause in FAULTS

    @property
    def unresolved(self) -> bool:
        """Whether it still stands."""
        return self.state != "resolved"

    @property
    def blocks(self) -> bool:
        """Whether it forbids retraining: a model would learn the fault."""
        return self.unresolved and self.cause in FAULTS


def observe(
    known: Incident | None, verdict: WindowVerdict, cause: Cause, at: datetime
) -> Incident | None:
    """Return the incident of `cause` after one more window; None if there is none.

    A window of another revision ends it: that version serves no more. A new column in an
    acknowledged incident opens it again. A window whose tiers could not be judged is not clean,
    nor is one in which the cause is hidden behind an earlier one.
    """
    if known is None or not known.unresolved:
        return _open(verdict, at) if verdict.cause == cause else known
    if verdict.end <= known.window:
        return known
    if verdict.revision != known.revision:
        text = f"revision {verdict.revision} serves now" if verdict.status == "judged" else ""
        return _resolved(known, at, text) if text else known
    if verdict.cause == cause:
        return _again(known, verdict)
    if _hidden(verdict, cause):
        return replace(known, window=verdict.end)
    clean = known.clean + 1
    seen = replace(known, window=verdict.end, clean=clean)
    if clean < CLEAN_WINDOWS:
        return seen
    return _resolved(seen, at, f"{clean} clean windows, the last ended {verdict.end}")


def _open(verdict: WindowVerdict, at: datetime) -> Incident:
    key = f"{verdict.model}\n{verdict.revision}\n{verdict.cause}\n{verdict.end}"
    return Incident(
        id=f"inc-{hashlib.sha256(key.encode()).hexdigest()[:8]}",
        model=verdict.model,
        revision=verdict.revision,
        cause=verdict.cause,
        hypotheses=verdict.hypotheses,
        state="open",
        opened_at=at.isoformat(),
        first_seen=verdict.start,
        last_seen=verdict.end,
        window=verdict.end,
        columns=_columns(verdict),
        numbers=_numbers(verdict),
        retraining=verdict.retraining,
    )


def _again(known: Incident, verdict: WindowVerdict) -> Incident:
    columns = _columns(verdict)
    new = set(columns) - set(known.columns)
    return replace(
        known,
        state="open" if new else known.state,
        hypotheses=verdict.hypotheses,
        last_seen=verdict.end,
        window=verdict.end,
        columns=tuple(sorted({*known.columns, *columns})),
        numbers=_numbers(verdict) or known.numbers,
        retraining=verdict.retraining,
        clean=0,
    )


def _hidden(verdict: WindowVerdict, cause: Cause) -> bool:
    tiers = set(CAUSES[cause])
    return verdict.status != "judged" or bool(tiers & {*verdict.raised, *verdict.unevaluated})


def _columns(verdict: WindowVerdict) -> tuple[str, ...]:
    tiers = CAUSES[verdict.cause]
    return tuple(
        sorted({f.column for f in verdict.findings if f.tier in tiers and f.page and f.column})
    )


def _numbers(verdict: WindowVerdict) -> tuple[str, ...]:
    tiers = set(CAUSES[verdict.cause])
    own = replace(verdict, findings=tuple(f for f in verdict.findings if f.tier in tiers))
    rest = replace(verdict, findings=tuple(f for f in verdict.findings if f.tier not in tiers))
    return tuple(f.text for f in (*own.top(), *rest.top()))[:3]


def _resolved(known: Incident, at: datetime, text: str) -> Incident:
    return replace(
        known,
        state="resolved",
        resolved_at=at.isoformat(),
        resolution=text,
    )


def acknowledge(known: Incident, actor: str, note: str) -> Incident:
    """Mark an incident as seen; it still stands. Levels to which it jumped count as normal now."""
    _standing(known)
    return replace(known, state="acknowledged", actor=actor, note=note)


def resolve(known: Incident, actor: str, note: str, at: datetime) -> Incident:
    """End an incident by a person's word."""
    _standing(known)
    ended = _resolved(known, at, f"by {actor}: {note}")
    return replace(ended, actor=actor, note=note)


def _standing(known: Incident) -> None:
    if not known.unresolved:
        raise Refused(
            f"incident {known.id} was resolved at {known.resolved_at}: {known.resolution}",
            hint=f"tidemill incident show {known.id}",
        )
