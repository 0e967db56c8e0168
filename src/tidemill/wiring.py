"""The composition root: settings become adapters here and nowhere else.

`Project` is what the CLI, the components and the DVC stages open. Every factory imports its
adapter when called, so that a process loads only the SDKs it uses.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tidemill.errors import ConfigError, UsageError
from tidemill.settings import Paths, Settings, load
from tidemill.settings.features import SqliteOnline
from tidemill.settings.secrets import reveal

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidemill.adapters.feast import FeastRepository
    from tidemill.adapters.kfp.backend import KfpRuns
    from tidemill.adapters.mlflow.client import Client
    from tidemill.adapters.mlflow.registry import MlflowRegistry
    from tidemill.adapters.mlflow.tracker import MlflowTracker
    from tidemill.adapters.signing import Signer
    from tidemill.adapters.store.incidents import StoredIncidents
    from tidemill.adapters.store.ledger import StoredLedger
    from tidemill.adapters.store.requests import StoredRequests
    from tidemill.adapters.store.rollouts import StoredRollouts
    from tidemill.adapters.store.windows import StoredWindows
    from tidemill.controller.loop import Controller
    from tidemill.controller.orders import Orders
    from tidemill.domain.rollout.model import Plan, Revision
    from tidemill.local.platform import Platform
    from tidemill.ports.clock import Clock
    from tidemill.ports.data import DatasetVersions, PartitionLedger, Source
    from tidemill.ports.features import OnlineReader, Transforms
    from tidemill.ports.objects import ObjectStore
    from tidemill.ports.processes import ProcessSpec
    from tidemill.ports.runs import Runs
    from tidemill.server import App, PredictionLog
    from tidemill.settings.contract import Contract
    from tidemill.steps.bundles import RegisteredBundles
    from tidemill.steps.labels import LabelFeed
    from tidemill.steps.materialize import Follower
    from tidemill.steps.monitor import Monitor
    from tidemill.steps.report import Reporter
    from tidemill.steps.retrain import Governor
    from tidemill.steps.retrain_run import Launcher

__all__ = ["Project"]


class Project:
    """A project, opened: its settings, paths and adapters."""

    def __init__(self, root: Path, settings: Settings, options: tuple[str, ...] = ()) -> None:
        """`options` are the command line's, with which another process gets the same settings."""
        self.root = root
        self.settings = settings
        self.paths = Paths(root, settings)
        self._options = options

    @classmethod
    def load(
        cls, root: Path | None = None, *, env: str | None = None, assignments: Sequence[str] = ()
    ) -> Project:
        """Open the project at or above `root` with its layered settings."""
        loaded = load(root, env=env, assignments=assignments)
        options = [f"--set={assignment}" for assignment in assignments]
        return cls(loaded.paths.root, loaded.settings, (f"--env={loaded.env}", *options))

    @classmethod
    def open(cls, config: str) -> Project:
        """Open a project from a resolved configuration that `save` or `publish` wrote."""
        if "://" in config:
            from tidemill.adapters.objects import open_objects

            prefix, _, key = config.rpartition("/")
            body = json.loads(open_objects(prefix).get(key))
        else:
            body = json.loads(Path(config).read_text())
        return cls(Path(body["root"]).absolute(), Settings.model_validate(body["settings"]))

    def save(self, path: Path) -> Path:
        """Write the resolved configuration, so that other processes open the very same project."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._resolved(self.root))
        return path

    def publish(self, name: str) -> str:
        """Store the resolved configuration for the pods of run `name`; return its URL.

        A pod opens it in its image's project folder; the environment names the S3 endpoint.
        """
        if not self.settings.storage.objects.startswith("s3://"):
            raise ConfigError(
                f"storage.objects is {self.settings.storage.objects}, which no pod can read",
                hint="set it to s3://bucket/prefix in configs/<env>.yaml",
            )
        content = self._resolved(Path()).encode()
        return self.objects.put(f"runs/{name}/settings.json", content)

    def keep(self, folder: Path, run: str) -> None:
        """Keep the files of a step's evidence with the objects, below `runs/<run>/`.

        Evidence must outlive a refusal, and a backend drops what a failed step wrote.
        """
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.objects.put(f"runs/{run}/{path.relative_to(folder).as_posix()}", path)

    def _resolved(self, root: Path) -> str:
        body = {"root": str(root), "settings": self.settings.model_dump(mode="json")}
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @cached_property
    def clock(self) -> Clock:
        """The system's clock, or the replay that `TIDEMILL_CLOCK` names."""
        from tidemill.adapters.clock import ReplayClock, SystemClock

        replay = os.environ.get("TIDEMILL_CLOCK")
        return ReplayClock(Path(replay)) if replay else SystemClock()

    @cached_property
    def store(self) -> Engine:
        """The store of ledgers, rollouts and incidents."""
        from tidemill.adapters.store.engine import open_store

        storage = self.settings.storage
        return open_store(self.paths.database(storage.database), reveal(storage.database_password))

    @cached_property
    def objects(self) -> ObjectStore:
        """Data, models, logs and evidence."""
        from tidemill.adapters.objects import open_objects

        storage = self.settings.storage
        return open_objects(self.paths.url(storage.objects), storage.endpoint_url)

    @cached_property
    def source(self) -> Source:
        """Where raw tables are read."""
        settings = self.settings.data.source
        if settings.type == "nycflights13":
            from tidemill.adapters.nycflights13 import Nycflights13

            return Nycflights13(self.paths.state / "cache")
        from tidemill.adapters.files import Files
        from tidemill.adapters.objects import open_objects

        files = open_objects(self.paths.url(settings.url), settings.endpoint_url)
        return Files(files, settings.tables, self.contract)

    @cached_property
    def contract(self) -> Contract:
        """What raw tables must look like."""
        from tidemill.settings.contract import load_contract

        return load_contract(self.paths.resolve(self.settings.data.contract))

    @cached_property
    def partitions(self) -> PartitionLedger:
        """The ledger of raw partitions."""
        from tidemill.adapters.store.partitions import StoredPartitions

        return StoredPartitions(self.store)

    @cached_property
    def versions(self) -> DatasetVersions:
        """Versions of dataset folders."""
        from tidemill.adapters.dvc import DvcVersions

        versions = self.settings.data.versions
        return DvcVersions(self.paths.url(versions.remote), versions.endpoint_url)

    @cached_property
    def transforms(self) -> Transforms:
        """The project's code that computes the feature tables."""
        from tidemill.adapters.project_code import load as load_code

        return cast(
            "Transforms",
            load_code(self.paths.resolve(self.settings.features.repo) / "transforms.py"),
        )

    @cached_property
    def features(self) -> FeastRepository:
        """The feature repository; loads Feast."""
        from tidemill.adapters.feast import FeastRepository

        settings = self.settings.features
        return FeastRepository(
            self.paths.resolve(settings.repo),
            settings,
            registry=self.paths.database(settings.registry),
            online_path=self._online_path,
        )

    @cached_property
    def online(self) -> OnlineReader:
        """The online store as a server reads it, without Feast."""
        from tidemill.adapters.online import open_online

        deadline = self.settings.serving.lookup_deadline_ms / 1000
        return open_online(self.settings.features, self._online_path, deadline)

    def server(
        self, bundle: Path, *, version: str, name: str = "", verify: bool = True
    ) -> tuple[App, PredictionLog]:
        """Verify and load a bundle; return the application, and the log that it writes."""
        from tidemill import server

        model = server.load_model(
            bundle,
            version=version,
            name=name,
            threads=self.settings.serving.intra_op_threads,
            public_key=self.paths.resolve(self.settings.registry.verify_key) if verify else None,
        )
        server.verify_features(model, self.online)
        return server.build(
            model,
            self.settings.serving,
            reader=self.online,
            objects=self.objects,
            clock=self.clock,
        )

    @cached_property
    def follower(self) -> Follower:
        """What brings the online store up to an instant; loads Feast."""
        from tidemill.steps.materialize import Follower

        return Follower(
            source=self.source,
            transforms=self.transforms,
            features=self.features,
            settings=self.settings.features,
            start=self.settings.data.start,
            tables=self.paths.state / "feast" / "recent",
        )

    @property
    def _online_path(self) -> Path:
        online = self.settings.features.online
        path = online.path if online.type == "sqlite" else SqliteOnline().path
        return self.paths.resolve(path)

    @cached_property
    def mlflow(self) -> Client:
        """The connection to MLflow."""
        from tidemill.adapters.mlflow.client import Client

        return Client(self.settings.registry.uri, reveal(self.settings.registry.token))

    @cached_property
    def registry(self) -> MlflowRegistry:
        """The model registry, its aliases and its catalog."""
        from tidemill.adapters.mlflow.registry import MlflowRegistry

        return MlflowRegistry(self.mlflow, self.settings.registry.experiment)

    def champion(self, reference: str = "") -> Path | None:
        """Bring the bundle that `reference` means, by default the one in use, to this machine.

        Returns None when nothing is in use yet; raises NotFound for a reference without a version.
        """
        model = self.settings.registry.model
        if not reference and "champion" not in self.registry.aliases(model):
            return None
        return Path(self.revision(reference or f"{model}@champion").bundle)

    def tracker(self, run: str, tags: Mapping[str, str] | None = None) -> MlflowTracker:
        """Open the record of the pipeline run `run`, begun by whichever step comes first."""
        from tidemill.adapters.mlflow.tracker import MlflowTracker

        return MlflowTracker.open(self.mlflow, self.settings.registry.experiment, run, tags)

    @cached_property
    def signer(self) -> Signer:
        """Signs bundles with the project's key."""
        from tidemill.adapters.signing import Signer

        registry = self.settings.registry
        return Signer(
            self.paths.resolve(registry.signing_key), self.paths.resolve(registry.verify_key)
        )

    @cached_property
    def ledger(self) -> StoredLedger:
        """The promotion ledger."""
        from tidemill.adapters.store.ledger import StoredLedger

        return StoredLedger(self.store)

    @cached_property
    def bundles(self) -> RegisteredBundles:
        """Bundles of every revision that ever served, verified."""
        from tidemill.steps.bundles import RegisteredBundles

        registry = self.settings.registry
        key = self.paths.resolve(registry.verify_key)
        cache = self.paths.state / "bundles"
        return RegisteredBundles(registry.model, self.registry, self.registry, cache, key)

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
    def labels(self) -> LabelFeed:
        """What appends the outcomes that became known."""
        from tidemill.steps.labels import LabelFeed

        return LabelFeed(
            model=self.settings.registry.model,
            source=self.source,
            transforms=self.transforms,
            objects=self.objects,
            row_id=self.settings.serving.row_id,
            label=self.settings.training.label,
            horizon_minutes=self.settings.features.horizon_minutes,
            first=self.settings.data.start,
        )

    @cached_property
    def rollouts(self) -> StoredRollouts:
        """What is wanted, known and was decided of rollouts."""
        from tidemill.adapters.store.rollouts import StoredRollouts

        return StoredRollouts(self.store)

    @cached_property
    def rollout_plan(self) -> Plan:
        """How a new version takes over, from the settings."""
        from tidemill.controller.plan import make_plan

        return make_plan(self.settings)

    @cached_property
    def orders(self) -> Orders:
        """What people order about the rollout."""
        from tidemill.controller.orders import Orders

        return Orders(self.settings.name, self.rollouts, self.rollouts)

    def revision(self, reference: str) -> Revision:
        """Bring a registered version to this machine, verified."""
        from tidemill.bundle import verify
        from tidemill.steps.release import fetch_revision

        key = self.paths.resolve(self.settings.registry.verify_key)
        bundles = self.paths.state / "bundles"
        return fetch_revision(self.registry, reference, bundles, lambda f: verify(f, key))

    @cached_property
    def controller(self) -> Controller:
        """The rollout's controller with its hands on this machine."""
        import httpx

        from tidemill.adapters.envoy import EnvoyRouter
        from tidemill.adapters.evidence import ServerEvidence
        from tidemill.adapters.outcomes import Outcomes
        from tidemill.adapters.workloads import ProcessWorkloads
        from tidemill.controller.loop import Controller, Hands
        from tidemill.steps.release import RegistryReleases

        client = httpx.Client(timeout=2.0, trust_env=False)
        admin = f"http://127.0.0.1:{self.settings.gateway.admin_port}"
        serving = self.settings.serving
        hands = Hands(
            ProcessWorkloads(
                self.platform.processes,
                self._serve,
                self.settings.gateway.server_ports,
                host=serving.host,
                grace_seconds=serving.notice_seconds + 2 * serving.drain_seconds + 1,
            ),
            EnvoyRouter(self.paths.state / "gateway", admin, client),
            ServerEvidence(Outcomes(self.objects), client),
            RegistryReleases(self.registry, self.ledger, self.clock),
        )
        return Controller(
            self.settings.name,
            self.rollouts,
            self.rollouts,
            hands,
            self.clock,
            lambda: datetime.now(UTC),
        )

    @cached_property
    def gateway_spec(self) -> ProcessSpec:
        """The gateway as a supervised process."""
        from tidemill.adapters.envoy import envoy_spec

        return envoy_spec(self.paths.state / "gateway", self.settings.gateway)

    def command(self, *words: str) -> tuple[str, ...]:
        """Return the argv that runs a verb of this project in another process."""
        start = (sys.executable, "-c", "from tidemill.cli import main; main()")
        return (*start, f"--project={self.root}", *self._options, *words)

    def platform_specs(self) -> list[ProcessSpec]:
        """Return the processes that `tidemill up` starts; the rollout adds the model servers."""
        from tidemill.adapters.mlflow.server import server_spec
        from tidemill.ports.processes import ProcessSpec

        verbs = {
            "controller": ("rollout", "controller"),
            "features": ("features", "follow"),
            "labels": ("labels", "follow"),
            "monitor": ("monitor", "follow"),
            "retrain": ("retrain", "follow"),
        }
        mlflow = server_spec(self.settings, self.paths)
        loops = [ProcessSpec(name, self.command(*words)) for name, words in verbs.items()]
        return [*([mlflow] if mlflow else []), self.gateway_spec, *loops]

    def _serve(self, revision: Revision, port: int) -> tuple[str, ...]:
        bundle = ("--bundle", revision.bundle, "--port", str(port))
        return self.command("serve", *bundle, "--version", revision.version)

    @cached_property
    def platform(self) -> Platform:
        """The supervised processes of this machine."""
        from tidemill.local.platform import Platform

        return Platform(self.paths.state / "platform", self.paths.logs)

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
        return KfpRuns(self.root, execution, token, self.publish, self.clock)
