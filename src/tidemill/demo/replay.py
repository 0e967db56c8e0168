"""The replay: the clock moves step by step, flights are scored through the gateway as they come.

Everything else is done by the platform's own processes; the replay only waits until each of them
has caught up with the clock, because a year passes faster here than they look at it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from tidemill.bundle import Manifest
from tidemill.demo.traffic import Clients, Tally, infer_request
from tidemill.demo.waiting import wait_for
from tidemill.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from tidemill.adapters.clock import ReplayClock
    from tidemill.wiring import Project

__all__ = ["Replay"]

BUSY = ("pending", "running")


class Replay:
    """Months of flights, played against the running platform."""

    def __init__(
        self,
        project: Project,
        clock: ReplayClock,
        flights: pl.DataFrame,
        manifest: Manifest,
        clients: Clients,
    ) -> None:
        """`flights` is the schedule: `event_timestamp` and every request column."""
        self.project = project
        self._clients = clients
        self.clock = clock
        self.tally = Tally()
        self.waited = 0.0
        """Seconds spent waiting for the platform's processes."""
        self.waited_for_runs = 0.0
        """Part of them in which a retraining ran."""
        self._flights = flights.sort("event_timestamp")
        self._step = timedelta(minutes=project.settings.features.step_minutes)
        request = [column for column in manifest.inputs if column.origin == "request"]
        self._columns = {
            manifest.row_id: "BYTES",
            **dict.fromkeys(manifest.entities, "BYTES"),
            **{column.name: column.datatype for column in request},
        }

    def play(self, until: datetime, *, watch: Callable[[], None], done: Callable[[], bool]) -> None:
        """Move the clock on until `until`, or until `done`; `watch` is called after each step.

        The clock stands while a retraining runs.
        """
        while not done() and self.clock.now() < until:
            self._step_through(self.clock.now())
            watch()
            self.waited_for_runs += self._wait("the retraining", self._no_run, patience=1800.0)
            self.clock.set(self.clock.now() + self._step)

    def _step_through(self, now: datetime) -> None:
        requests = self._requests(now)  # while the follower fills the store
        self._wait("the feature follower", lambda: self._filled() >= now)
        self.tally.add(self._clients.send(requests))
        # They look at what was before `now`, so they may do it beside the requests.
        self._wait("the labels feed", lambda: now - self._labelled() < timedelta(hours=1))
        self._wait("the monitor", self._judged)

    def _requests(self, now: datetime) -> list[bytes]:
        upcoming = pl.col("event_timestamp").is_between(now, now + self._step, closed="left")
        return [
            infer_request(row, self._columns)
            for row in self._flights.filter(upcoming).iter_rows(named=True)
        ]

    def _filled(self) -> datetime:
        never = datetime.min.replace(tzinfo=self.clock.now().tzinfo)
        try:
            return self.project.online.read([], {}, self.clock.now()).as_of or never
        except Unavailable:
            return never

    def _labelled(self) -> datetime:
        key = f"labels/{self.project.settings.registry.model}/collected.json"
        return datetime.fromisoformat(json.loads(self.project.objects.get(key))["until"])

    def _judged(self) -> bool:
        try:
            return self.project.monitor.due() is None
        except NotFound:
            return True  # before the first request

    def _no_run(self) -> bool:
        requests = self.project.requests.all(self.project.settings.registry.model)
        return not any(request.state in BUSY for request in requests)

    def _wait(self, whom: str, reached: Callable[[], bool], patience: float = 180.0) -> float:
        what = f"catching up of {whom} with {self.clock.now():%Y-%m-%d %H:%M}"
        waited = wait_for(what, reached, patience)
        self.waited += waited
        return waited
