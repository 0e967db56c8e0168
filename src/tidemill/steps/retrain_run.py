"""The run of an accepted retraining request: started once, recorded whatever happens."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from tidemill.domain.governor import Decision, Request
from tidemill.errors import Conflict, TidemillError
from tidemill.ports.clock import Clock
from tidemill.ports.monitoring import Requests
from tidemill.ports.runs import RunResult, Runs, Watcher

__all__ = ["Launcher", "gone"]

PIPELINE = "training"


class Launcher:
    """Runs the training pipeline for accepted requests."""

    def __init__(self, requests: Requests, runs: Runs, clock: Clock, *, window: str) -> None:
        """`window` is the training window: `expanding`, or the last N days as `Nd`."""
        self._requests = requests
        self._runs = runs
        self._clock = clock
        self._window = window

    def launch(self, request: Request, watch: Watcher = lambda _: None) -> Request:
        """Run the training pipeline for an accepted request, to its end, and record the outcome.

        What is about to be done is written first, so of two callers one runs and the other gets
        Conflict. Raises what the platform raises; the request waits again then. Its run is
        continued, and taken as it is if it succeeded while nobody was left to record it; Conflict
        as long as somebody else holds it, and nothing has changed then.
        """
        begun = replace(request, state="running", attempts=request.attempts + 1, owner=_owner())
        current = self._requests.save(begun)

        def note(run: RunResult) -> None:
            nonlocal current
            if run.run_id != current.run_id:
                current = self._requests.save(replace(current, run_id=run.run_id))
            watch(run)

        try:
            run = self._run(request, note)
        except Conflict:
            self._requests.save(replace(request, edits=current.edits))
            raise
        except TidemillError as error:
            self._requests.save(replace(current, state="waiting", outcome=error.message))
            raise
        return self._finish(current, run)

    def _run(self, request: Request, watch: Watcher) -> RunResult:
        if request.run_id:
            run = self._runs.status(request.run_id)
            if run.state == "succeeded":
                return run
        parameters = self._parameters(request)
        return self._runs.launch(PIPELINE, parameters, resume=request.run_id, watch=watch)

    def _parameters(self, request: Request) -> dict[str, str]:
        """Return the training pipeline's parameters; `window_start` empty means all data."""
        start = ""
        if self._window != "expanding":
            days = timedelta(days=int(self._window.removesuffix("d")))
            start = (datetime.fromisoformat(request.accepted_at) - days).isoformat()
        return {
            "as_of": request.accepted_at,
            "correlation_id": request.correlation_id,
            "window_start": start,
        }

    def _finish(self, request: Request, run: RunResult) -> Request:
        now = self._clock.now().isoformat()
        ended = replace(request, finished_at=now, outcome=run.cause or run.state)
        if run.state == "succeeded":
            return self._requests.save(replace(ended, state="succeeded"))
        if run.state == "refused":
            reason = f"the retrained model did not pass: {run.cause}"
            asked = Decision("ESCALATE", "gate", reason, at=now)
            drift = request.trigger == "concept_drift"
            return self._requests.save(replace(ended, state="rejected"), asked if drift else None)
        if run.state == "cancelled":
            stopped = Decision("REFUSE", "cancelled", f"run {run.run_id} was cancelled", at=now)
            return self._requests.save(replace(ended, state="refused"), stopped)
        return self._requests.save(replace(ended, state="waiting", run_id=""))


def _owner() -> str:
    return f"{platform.node()}:{os.getpid()}:{_began(os.getpid())}"


def gone(request: Request) -> bool:
    """Tell whether the process that runs a request has ended; only its own machine knows.

    A process is known by its number and its start: numbers come again, as after a restart.
    """
    node, number, began = request.owner.rsplit(":", 2)
    return node == platform.node() and _began(int(number)) != began


def _began(process: int) -> str:
    """Return when a process started, in the kernel's ticks; empty when it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # proc_pid_stat(5): behind the name, the state comes first and starttime twentieth.
    return "" if fields[0] == "Z" else fields[19]
