"""A governor on a real store, and what surrounds it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import polars as pl
from sqlalchemy import Engine
from tests.unit.rollout_world import plan
from tests.unit.rollout_world import revision as version

from tidemill.adapters.store.incidents import StoredIncidents
from tidemill.adapters.store.requests import StoredRequests
from tidemill.domain.governor import Request, Trigger
from tidemill.domain.incidents import Incident
from tidemill.domain.rollout.flight import Rollout
from tidemill.domain.rollout.model import Attempt, Condition, Phase, State
from tidemill.domain.verdicts import Cause
from tidemill.settings.monitoring import RetrainingSettings
from tidemill.steps.retrain import Champion, Governor
from tidemill.steps.retrain_run import Launcher
from tidemill.testing.clock import FixedClock
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.runs import MemoryRuns

TRAINED = datetime(2013, 4, 1, tzinfo=UTC)
NOW = datetime(2013, 4, 20, tzinfo=UTC)


class Desk:
    """A governor and its surroundings; the model that serves was trained on 1 April."""

    def __init__(self, store: Engine, now: datetime = NOW, **settings: object) -> None:
        self.clock = FixedClock(now)
        self.requests = StoredRequests(store)
        self.incidents = StoredIncidents(store)
        self.objects = MemoryObjects()
        self.champion: Champion | None = Champion("rev", TRAINED)
        self.rollouts: Callable[[], Iterable[Rollout]] = tuple
        self.governor = Governor(
            "m",
            requests=self.requests,
            decisions=self.requests,
            incidents=self.incidents,
            objects=self.objects,
            champion=lambda: self.champion,
            rollouts=lambda: self.rollouts(),
            clock=self.clock,
            settings=RetrainingSettings(**settings),
        )

    def launcher(self, *ends: object, window: str = "expanding") -> tuple[Launcher, MemoryRuns]:
        runs = MemoryRuns(*ends)
        return Launcher(self.requests, runs, self.clock, window=window), runs

    def labels(self, rows: int, at: datetime) -> None:
        frame = pl.DataFrame(
            {"row_id": [f"{at}-{i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
        ).with_columns(
            pl.lit(at).dt.cast_time_unit("us").alias("scheduled_at"),
            pl.lit(at + timedelta(hours=2)).dt.cast_time_unit("us").alias("label_at"),
        )
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        self.objects.put(f"labels/m/dt={at:%Y-%m-%d}/0.parquet", buffer.getvalue())

    def incident(self, cause: Cause, name: str = "inc-1", *, retraining: bool = True) -> Incident:
        return self.incidents.save(
            Incident(
                name, "m", "rev", cause, (), "open", NOW.isoformat(), NOW.isoformat(),
                NOW.isoformat(), NOW.isoformat(), (), ("log-loss is off",), retraining,
            )
        )  # fmt: skip


def flight(phase: Phase, why: str = "") -> Rollout:
    """A canary of version 7 beside the model that serves."""
    attempt = Attempt(1, version("v7"), plan(), 1, NOW)
    conditions = (Condition("Progressing", "False", "Paused", why),) if why else ()
    state = State(phase, version("rev"), attempt=attempt, conditions=conditions)
    return Rollout("m", version("v7"), state)


def at_rest(name: str, *before: str) -> Rollout:
    """A rollout whose stable revision serves all traffic, after these."""
    return Rollout("m", version(name), State("stable", version(name), reported=before))


def wish(desk: Desk, trigger: Trigger) -> Request:
    """Ask by a cause that may run at once: schedule, drift or a commit."""
    if trigger == "concept_drift":
        return desk.governor.consider(desk.incident("concept_drift"))
    if trigger == "schedule":
        desk.clock.instant = TRAINED + timedelta(days=28)
        return desk.governor.advance()[0]
    return desk.governor.request(trigger, actor="ci", reason="code", key="a")
