"""One MLflow run per pipeline run, whichever of its processes writes to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

from tidemill.adapters.mlflow.client import Client, now_ms, pairs, quoted

__all__ = ["MlflowTracker"]

T = TypeVar("T")

KEY = "tidemill.run"
BATCH = 100
"""Parameters, tags and metrics that one call may carry (MLflow allows 100, 100 and 1000)."""


class MlflowTracker:
    """An open run; metrics are written before the call returns.

    MLflow's background writer loses metrics without an error when its server is down, so there is
    none here.
    """

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    @classmethod
    def open(
        cls, client: Client, experiment: str, run: str, tags: Mapping[str, str] | None = None
    ) -> MlflowTracker:
        """Open the MLflow run of the pipeline run `run`, begun if there is none.

        Every step of a pipeline run, and every resumed attempt, gets the same one.
        """
        experiment_id = client.experiment(experiment)
        found = client.post(
            "runs/search",
            experiment_ids=[experiment_id],
            filter=f"tags.`{KEY}` = {quoted(run)}",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        ).get("runs")
        if not found:
            begun = client.post(
                "runs/create",
                experiment_id=experiment_id,
                run_name=run,
                start_time=now_ms(),
                tags=pairs({**(tags or {}), KEY: run}),
            )
            return cls(client, begun["run"]["info"]["run_id"])
        tracker = cls(client, found[0]["info"]["run_id"])
        if found[0]["info"]["status"] != "RUNNING":
            client.post("runs/update", run_id=tracker.run_id, status="RUNNING")
        tracker.set_tags(tags or {})
        return tracker

    def log_params(self, params: Mapping[str, str | int | float | bool]) -> None:
        """Record what the run was given; MLflow refuses to change a value."""
        for part in _parts(params):
            self._client.post("runs/log-batch", run_id=self.run_id, params=pairs(part))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record what was measured."""
        at = now_ms()
        for part in _parts(metrics):
            rows = [
                {"key": name, "value": _number(value), "timestamp": at, "step": step}
                for name, value in part.items()
            ]
            self._client.post("runs/log-batch", run_id=self.run_id, metrics=rows)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach names to the run; a later value replaces an earlier one."""
        for part in _parts(tags):
            self._client.post("runs/log-batch", run_id=self.run_id, tags=pairs(part))

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """End the run."""
        self._client.post("runs/update", run_id=self.run_id, status=status, end_time=now_ms())


def _parts(values: Mapping[str, T]) -> Iterator[dict[str, T]]:
    items = list(values.items())
    for start in range(0, len(items), BATCH):
        yield dict(items[start : start + BATCH])


def _number(value: float) -> float | str:
    """Return a metric as JSON can carry it; MLflow reads `NaN` and `Infinity` from text."""
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
