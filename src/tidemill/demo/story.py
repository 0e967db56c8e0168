"""What happened in a replay: events in two times, stages with their cost, series for the plots."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.ports.runs import RunResult

__all__ = ["Canary", "Event", "Point", "Stage", "Story"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing worth telling."""

    clock: str
    """Instant of the replay, ISO 8601."""
    wall: float
    """Seconds since the demo began."""
    title: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the demo and what it cost."""

    name: str
    wall_seconds: float
    work_seconds: float
    """Part of the wall time in which a step, a request or a tick did its work."""
    beside: bool = False
    """Whether other stages went on meanwhile."""
    cpu_seconds: float = 0.0
    """CPU time of its steps; of the replay, that of everything that took part."""


@dataclass(frozen=True, slots=True)
class Point:
    """One judged day of the replay."""

    day: str
    drift: float | None
    """Median qPSI of the features against the profile of the version in use."""
    performance: float | None
    """Largest |z| of the pooled performance statistics."""
    auc_champion: float | None = None
    auc_first: float | None = None
    """AUC of the first release on the same rows: what never retraining would have given."""


@dataclass(frozen=True, slots=True)
class Canary:
    """Evidence of one rollout attempt over the replay's time, for one metric."""

    version: str
    metric: str
    at: tuple[str, ...]
    weight: tuple[int, ...]
    log_e_harm: tuple[float, ...]
    log_e_pass: tuple[float, ...]
    harm_at: float
    pass_at: float
    outcome: str


@dataclass(slots=True)
class Story:
    """The account of one demo."""

    tell: Callable[[Event], None]
    events: list[Event] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    """Figures of the account, already formatted, by what they are."""
    performance_bound: float = 0.0
    """`monitoring.performance_z`, which the plot draws."""
    cpu_seconds: float = 0.0
    """CPU time of everything that took part."""
    began: float = field(default_factory=time.monotonic)

    def note(self, clock: datetime | None, title: str, why: str = "") -> None:
        """Record an event and tell it at once."""
        event = Event(
            clock.isoformat(timespec="minutes") if clock else "",
            time.monotonic() - self.began,
            title,
            why,
        )
        self.events.append(event)
        self.tell(event)

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Time a stage in which the demo does nothing but wait."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.stages.append(Stage(name, time.monotonic() - begin, 0.0))

    def add_run(self, name: str, run: RunResult, *, beside: bool = False) -> None:
        """Record a pipeline run as a stage: its work is what happened inside its steps."""
        cpu = sum(step.cpu_seconds for step in run.steps)
        self.stages.append(Stage(name, run.wall_seconds, run.work_seconds, beside, cpu))

    @property
    def orchestration(self) -> float:
        """Share of the wall time that was no work."""
        work = sum(stage.work_seconds for stage in self.stages if not stage.beside)
        return 1 - work / self.wall_seconds

    @property
    def wall_seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        body = {
            "wall_seconds": round(self.wall_seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            **{
                name: [asdict(item) for item in getattr(self, name)]
                for name in ("events", "stages", "points", "canaries")
            },
            "figures": self.figures,
        }
        path.write_text(json.dumps(body, indent=1) + "\n")
