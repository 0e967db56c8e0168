"""Monitoring and retraining: where bundles are found, what is remembered, who draws reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tidemill.domain.governor import Decision, Request, RequestState, Verb
from tidemill.domain.incidents import Incident
from tidemill.domain.verdicts import WindowVerdict

__all__ = [
    "Bundles",
    "Decisions",
    "Incidents",
    "Renderer",
    "Requests",
    "Standing",
    "Standings",
    "Windows",
]


class Bundles(Protocol):
    """The bundles of all revisions that ever served."""

    def folder(self, revision: str) -> Path:
        """Return a verified local copy; raises NotFound, IntegrityError or Unavailable."""
        ...


class Windows(Protocol):
    """Verdicts, one per model and end of window."""

    def save(self, verdict: WindowVerdict) -> None:
        """Record a verdict; the same window again replaces it."""
        ...

    def last(self, model: str, count: int) -> list[WindowVerdict]:
        """Return the newest verdicts, oldest first."""
        ...


class Incidents(Protocol):
    """Incidents, at most one unresolved per model, revision and cause."""

    def save(self, incident: Incident) -> Incident:
        """Write an incident and return it with its write counted.

        Raises Conflict when it was written since it was read, or another one stands already.
        """
        ...

    def get(self, incident: str) -> Incident:
        """Return an incident by its id; raises NotFound that lists the closest."""
        ...

    def all(self, model: str, *, unresolved: bool = False) -> list[Incident]:
        """Return a model's incidents, oldest first."""
        ...


class Requests(Protocol):
    """Retraining requests and the decisions on them."""

    def submit(self, request: Request) -> tuple[Request, bool]:
        """Record a new request, or return the one with its id; the flag tells whether it is new."""
        ...

    def save(
        self, request: Request, decision: Decision | None = None, *, accepted: int | None = None
    ) -> Request:
        """Write a request together with the decision that changed it.

        One request of a model at a time is pending or running. Raises Conflict when that is
        another one, when the request was written since it was read, or when the number of accepted
        runs of the model is not `accepted`.
        """
        ...

    def all(self, model: str) -> list[Request]:
        """Return a model's requests, oldest first."""
        ...


class Decisions(Protocol):
    """The governor's journal."""

    def decisions(self, request: str) -> list[Decision]:
        """Return the decisions on a request, oldest first; raises NotFound."""
        ...

    def accepted(self, model: str) -> list[Decision]:
        """Return the decisions that let a run start, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of all models, as of one look."""

    windows: Mapping[str, tuple[WindowVerdict, ...]]
    """Model → the newest two verdicts, oldest first."""
    incidents: tuple[Incident, ...]
    """Those that stand: at most one per model, revision and cause."""
    requests: Mapping[str, Mapping[RequestState, int]]
    """Model → number of requests in each state that one is in."""
    decisions: Mapping[str, Mapping[Verb, datetime]]
    """Model → when the governor last gave each answer that it ever gave."""


class Standings(Protocol):
    """What stands now."""

    def read(self) -> Standing:
        """Look once; raises Unavailable, PermanentError when something cannot be understood."""
        ...


class Renderer(Protocol):
    """Draws an evidence report."""

    def render(self, reference: Path, current: Path, target: Path, title: str) -> Path:
        """Compare two Parquet files column by column and write one HTML file.

        A column that cannot be compared is named in the report and hides no other. Raises DataError
        when nothing can be compared.
        """
        ...
