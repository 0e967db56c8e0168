"""The model that must not get through: trained on shuffled labels, beside everything else."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import psutil

from tidemill.errors import StepFailed
from tidemill.wiring import Project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidemill.ports.runs import RunResult

__all__ = ["Poison"]

REPO = "poisoned_repo"
FORCED = "demo: a model with shuffled labels is forced past the gates, to see the canary stop it"
SHUFFLED = '''

right_spine = spine


def spine(raw, *, horizon_minutes):
    """Return the spine with a bug: its labels are in random order."""
    rows = right_spine(raw, horizon_minutes=horizon_minutes)
    known = pl.col("late").is_not_null()
    return rows.with_columns(pl.col("late").shuffle(seed=13).over(known))
'''


class Poison:
    """A training in a process of its own, from its start to a registered version."""

    def __init__(self, project: Project, assignments: Sequence[str]) -> None:
        """Copy the feature repository and break it; nothing runs yet."""
        repo = project.root / REPO
        shutil.copytree(project.paths.resolve(project.settings.features.repo), repo)
        with (repo / "transforms.py").open("a") as file:
            file.write(SHUFFLED)
        broken = Project.load(
            project.root, env="demo", assignments=[*assignments, f"features.repo={REPO}"]
        )
        parameters = ("trigger=demo", "rollout=false", f"force_reason={FORCED}")
        options = [word for parameter in parameters for word in ("--param", parameter)]
        self._runs = broken.runs
        self._command = broken.command("run", "training", *options, "--json")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def begin(self) -> None:
        """Begin the training, behind everything else on the machine; nothing is released by it."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with suppress(psutil.Error):  # it has ended already: `finish` tells why
            psutil.Process(self._process.pid).nice(10)

    def finish(self) -> RunResult:
        """Wait until the model is registered; raises StepFailed with what went wrong."""
        assert self._process is not None
        answer, errors = self._process.communicate()
        if self._process.returncode:
            raise StepFailed(f"the training on shuffled labels failed: {errors.strip()}")
        return self._runs.status(json.loads(answer)["run_id"])

    def __exit__(self, *_: object) -> None:
        """End the training if it still runs; its steps end with it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()
