"""Monitoring, retraining and the pipeline runs that it starts."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.errors import UsageError
from tidemill.files import place
from tidemill.settings.check import check_pods, refuse
from tidemill.settings.secrets import reveal
from tidemill.wiring.rollout import RolloutParts

if TYPE_CHECKING:
    from tidemill.adapters.kfp.backend import KfpRuns
    from tidemill.adapters.store.incidents import StoredIncidents
    from tidemill.adapters.store.requests import StoredRequests
    from tidemill.adapters.store.windows import StoredWindows
    from tidemill.ports.runs import Runs
    from tidemill.steps.monitor import Monitor
    from tidemill.steps.report import Reporter
    from tidemill.steps.retrain import Governor
    from tidemill.steps.retrain_run import Launcher

__all__ = ["MonitoringParts"]


class MonitoringParts(RolloutParts):
    """The adapters that watch and retrain."""

    @cached_property
    def windows(self) -> StoredWindows:
        """Verdicts on monitored windows."""
        from tidemill.adapters.store.windows import StoredWindows

        return StoredWindows(self.store)

    @cached_property
    def incidents(self) -> StoredIncidents:
        """Incidents."""
        from tidemill.adapters.store.incidents import StoredIncidents

        return StoredIncidents(self.store)

    @cached_property
    def requests(self) -> StoredRequests:
        """Retraining requests and the decisions on them."""
        from tidemill.adapters.store.requests import StoredRequests

        return StoredRequests(self.store)

    @cached_property
    def monitor(self) -> Monitor:
        """What judges the windows of the prediction log."""
        from tidemill.steps.judge import Judge
        from tidemill.steps.monitor import Monitor
        from tidemill.steps.recompute import Recomputed
        from tidemill.steps.window_counts import declared_ranges

        features, first = self.settings.features, self.settings.data.start
        judge = Judge(
            self.settings.registry.model,
            self.settings.monitoring,
            declared_ranges(self.contract),
            Recomputed(self.source, self.transforms, features, first),
        )
        return Monitor(
            judge,
            objects=self.objects,
            bundles=self.bundles,
            windows=self.windows,
            incidents=self.incidents,
            clock=self.clock,
            horizon=timedelta(minutes=features.horizon_minutes),
        )

    @cached_property
    def governor(self) -> Governor:
        """What decides whether a retraining may run."""
        from tidemill.steps.retrain import Governor, serving

        model = self.settings.registry.model
        return Governor(
            model,
            requests=self.requests,
            decisions=self.requests,
            incidents=self.incidents,
            objects=self.objects,
            champion=lambda: serving(model, self.windows, self.bundles),
            rollouts=self.survey,
            clock=self.clock,
            settings=self.settings.retraining,
        )

    @cached_property
    def launcher(self) -> Launcher:
        """What runs the training pipeline for an accepted request."""
        from tidemill.steps.retrain_run import Launcher

        window = self.settings.retraining.window
        return Launcher(self.requests, self.runs, self.clock, window=window)

    @cached_property
    def reporter(self) -> Reporter:
        """What draws evidence reports; loads Evidently when it draws."""
        from tidemill.adapters.evidently import EvidentlyRenderer
        from tidemill.steps.report import Reporter

        return Reporter(
            self.settings.registry.model,
            self.objects,
            self.bundles,
            self.incidents,
            self.windows,
            EvidentlyRenderer(),
            self.settings.monitoring,
        )

    @cached_property
    def runs(self) -> Runs:
        """Where pipelines run by default."""
        return self.runs_on("")

    def runs_on(self, place: str) -> Runs:
        """Return the runs on this machine (`local`) or on Kubeflow Pipelines (`kfp`)."""
        place = place or self.settings.execution.target
        if place == "kfp":
            return self.backend
        if place != "local":
            raise UsageError(f"pipelines run on 'local' or 'kfp', not on '{place}'")
        from tidemill.adapters.kfp.local import LocalRuns

        return LocalRuns(self.root, self.paths.runs, self.settings.execution, self.save, self.clock)

    @cached_property
    def backend(self) -> KfpRuns:
        """The Kubeflow Pipelines backend; raises ConfigError when its token cannot be read."""
        from tidemill.adapters.kfp.backend import KfpRuns

        execution = self.settings.execution
        token = reveal(execution.kfp.token)
        return KfpRuns(self.root, execution, token, self.check_pods, self.publish, self.clock)

    def check_pods(self) -> None:
        """Raise ConfigError for settings with which a run's pods cannot work."""
        problems = check_pods(self.settings, self.root)
        refuse(problems, "the pods of a run cannot work with these settings")

    def publish(self, name: str) -> str:
        """Store the resolved configuration for the pods of run `name`; return its URL.

        A pod opens it in its image's project folder; the environment names the S3 endpoint.
        """
        content = self._resolved(Path()).encode()
        return self.objects.put(f"runs/{name}/settings.json", content)

    def save(self, path: Path) -> Path:
        """Write the resolved configuration, so that other processes open the very same project.

        Raises Unavailable.
        """
        return place(path, self._resolved(self.root).encode())

    def _resolved(self, root: Path) -> str:
        body = {"root": str(root), "settings": self.settings.model_dump(mode="json")}
        return json.dumps(body, indent=1, sort_keys=True) + "\n"
