"""What is seen of both arms, and what an attempt remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.domain.evidence import Loss, Pair, Segment
from tidemill.domain.rollout.pairs import Pairing, Pairs

__all__ = ["Cohort", "Counters", "Evidence", "Reading", "Span"]


@dataclass(frozen=True, slots=True)
class Counters:
    """What one revision's servers have counted since they started; only ever grows."""

    started: float
    """Start of the process, Unix seconds: another one means that the counters began anew."""
    requests: int
    events: Mapping[str, int]
    servers: Mapping[str, Counters] = field(default_factory=dict)
    """The parts by server, where there may be several; empty: it is one server."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Requests under one weight whose labels have matured, of whole hours."""

    epoch: int
    weight: int
    requests: Pair
    labelled: Pair
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the evidence; what is absent from it was not seen."""

    counters: Mapping[str, Counters] = field(default_factory=dict)
    cohorts: tuple[Cohort, ...] = ()
    matured_until: datetime | None = None
    """Exclusive end, project's clock, of the hours in `cohorts`."""
    problem: str = ""
    rehearsal: str | None = None
    """In `preparing`, what is wrong with the canary's answer to a request of our own; empty when
    nothing is, None when it is not known."""
    pairs: Pairs | None = None
    """In a shadow step; None: they could not be read."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the project's clock during which one weight was in force."""

    epoch: int
    weight: int
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that an attempt remembers of what it saw."""

    series: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    """Per metric, and under `requests` the bare traffic."""
    baseline: Mapping[str, Counters] = field(default_factory=dict)
    """Counters up to which everything is consumed; empty after a weight change."""
    spans: tuple[Span, ...] = ()
    matured_until: datetime | None = None
    seen_at: datetime | None = None
    """Wall clock of the last complete window."""
    away_seconds: float = 0.0
    """Since then, what no look saw pass: it is no time without evidence."""
    gap_seconds: float = 0.0
    """Evidence lost in this step."""
    problem: str = ""
    pairing: Pairing = field(default_factory=Pairing)
