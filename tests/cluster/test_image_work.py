"""The images of features, monitor and pipelines at their work: as the chart's pods and as steps of
a pipeline, with real flights, read-only, each under its own account.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pytest
import redis
from tests import servers
from tests.cluster.access import Cluster
from tests.cluster.endings import story, succeeds
from tests.cluster.images import cached
from tests.cluster.installation import BUCKET, CREDENTIALS, Backing, Release, add_images, address
from tests.cluster.journey import PRIVATE_KEY, PUBLIC_KEY, add_built, make_project
from tests.cluster.node.images import Image
from tests.cluster.pipeline_steps import Steps
from tests.cluster.rollouts import eventually
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads
from tests.monitoring_world import DAY, MODEL, RELEASE, Flights, World
from tests.project.kfp_api import FakeKfp
from tests.refusal import NO_PODS, refuse

from tidemill.adapters.clock import ReplayClock
from tidemill.bundle import revision
from tidemill.domain.governor import Request
from tidemill.domain.verdicts import WindowVerdict
from tidemill.settings.execution import ExecutionSettings
from tidemill.wiring import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

T = TypeVar("T")

SETS = ("features", "monitor", "pipelines", "control", "registry")
CLOCK = "configs/clock.json"
KFP_PORT = 8888
RUN = "trial"
PATIENCE = 240.0


@dataclass
class Work:
    """A release with everything that looks after a model, at an instant of 2013."""

    cluster: Cluster
    release: Release
    backing: Backing
    images: dict[str, str]
    """References of the built images by dependency set."""
    project: Project
    """The project in the images, as this machine opens it."""
    clock: ReplayClock

    def job(self, part: str) -> str:
        """Run a CronJob's job now, to its end, and return what it printed."""
        name = f"{part}-{self.clock.now():%d}-{len(self.release.kubectl('get', 'jobs').split())}"
        self.release.kubectl("create", "job", name, f"--from=cronjob/tidemill-{part}-{MODEL}")
        where = self.release.access, self.release.namespace
        assert succeeds(*where, f"job/{name}"), story(*where)
        return self.release.kubectl("logs", f"job/{name}")

    def until(self, what: str, look: Callable[[], T]) -> T:
        """Wait until `look` finds something; else say what was waited for and the pods' story."""
        where = self.release.access, self.release.namespace
        return eventually(look, PATIENCE, lambda: f"not seen: {what}\n{story(*where)}")

    def request(self, found: str) -> Request:
        """Return a retraining request as it is now."""
        return next(one for one in self.project.requests.all(MODEL) if one.id == found)

    def verdict(self) -> WindowVerdict:
        """Return the newest verdict."""
        return self.project.windows.last(MODEL, 1)[0]


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    return Flights(tmp_path_factory.mktemp("flights"))


@pytest.fixture(scope="module")
def backing(cluster: Cluster, node: Workloads, cluster_folder: Path) -> Iterator[Backing]:
    try:
        add_images(node, cluster_folder / "images")
    except NoCluster as reason:
        refuse(NO_PODS, reason)
    namespace = cluster.namespace()
    text = Path(__file__).with_name("online.yaml").read_text()
    text = text.replace("REDIS_PROGRAM", servers.redis_program())
    cluster.kubectl("apply", "--namespace", namespace, "-f", "-", stdin=text)
    yield Backing.start(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def work(
    cluster: Cluster,
    node: Workloads,
    gateway_api: None,
    built: Callable[..., dict[str, Image]],
    backing: Backing,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Work]:
    """The release in its images, where Pod Security admits nothing but `restricted`."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    for name in ("components", "feature_repo", "pipelines"):
        shutil.copytree(Path(__file__).parents[2] / name, root / name)
    clock = ReplayClock(root / CLOCK)
    clock.set(RELEASE + DAY + timedelta(hours=1))
    references = add_built(node, built(*SETS, *(["train"] if cached("train") else [])), root)
    namespace = cluster.namespace(enforce="restricted")
    backing.secret(cluster, namespace)
    release = Release(cluster, namespace)
    release.kubectl("create", "secret", "generic", "replayed", *replayed())
    release.upgrade(values(references, backing, node_address(cluster)))
    with opened(root, backing, release) as project:
        yield Work(cluster, release, backing, references, project, clock)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def replayed() -> list[str]:
    """Return the keys of a Secret that also sets the parts' clock."""
    variables = CREDENTIALS | {"TIDEMILL_CLOCK": f"/project/{CLOCK}"}
    return [f"--from-literal={name}={value}" for name, value in variables.items()]


def node_address(cluster: Cluster) -> str:
    """Return this machine's address as pods see it."""
    read = "--output=jsonpath={.items[0].status.addresses[0].address}"
    return cluster.kubectl("get", "nodes", read)


def values(references: dict[str, str], backing: Backing, host: str) -> dict[str, Any]:
    images = {
        name: dict(zip(("repository", "digest"), reference.split("@"), strict=True))
        for name, reference in references.items()
        if name != "train"  # of a step, not of a part
    }
    part = {"enabled": True, "secretName": "replayed"}
    job = {"secretName": "replayed"}
    return {
        "images": images,
        "settings": backing.settings
        | {
            "registry": backing.settings["registry"]
            | {"verify_key": PUBLIC_KEY, "signing_key": "/keys/signing.pem"},
            "data": {"versions": {"remote": f"s3://{BUCKET}/versions"}},
            "features": {"online": {"type": "redis", "host": f"online.{backing.namespace}"}},
            "execution": {
                "target": "kfp",
                "kfp": {"host": f"http://{host}:{KFP_PORT}", "poll_seconds": 0.5},
                "resources": {"register": {"secret_files": {"/keys": "signing"}}},
            },
        },
        "secretName": "credentials",
        "mlflow": {"persistence": {"enabled": False}, "hosts": ["198.1*"]},
        "features": part,
        "retrain": part,
        "models": [{"name": MODEL, "labels": job, "monitor": job}],
    }


@contextmanager
def opened(root: Path, backing: Backing, release: Release) -> Iterator[Project]:
    """Open the project outside of the cluster, as whoever trains."""
    mlflow = address(release.access, release.namespace, "tidemill-mlflow")
    settings = (
        f"registry.uri=http://{mlflow}:5000",
        f"registry.signing_key={PRIVATE_KEY}",
        f"registry.verify_key={PUBLIC_KEY}",
        f"storage.database=postgresql+psycopg://tidemill@{backing.host}:5432/postgres",
        f"storage.objects=s3://{BUCKET}/state",
        f"storage.endpoint_url={backing.endpoint}",
        f"data.versions.remote=s3://{BUCKET}/versions",
        f"data.versions.endpoint_url={backing.endpoint}",
        "data.end=2013-02",
        "training.device=cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_CLOCK", str(root / CLOCK))
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        project = Project.load(root, assignments=settings)
        yield project
        project.store.dispose()


def serve(work: Work, flights: Flights, day: datetime, **blank: Any) -> None:
    """Write what a server logs on a day, by the model that is registered here.

    `blank` are features whose source went silent, which it scored as such.
    """
    registry, signer = work.project.registry, work.project.signer
    signer.sign(flights.bundle)
    version = registry.publish(flights.bundle, {}, "")
    world = World(flights, work.project.root / f"{day:%m%d}", revision=revision(version.digest))
    world.log(day, lambda rows: world.rescored(rows.with_columns(**blank)) if blank else rows)
    key = f"predictions/{MODEL}/dt={day:%Y-%m-%d}/000000.parquet"
    work.project.objects.put(key, world.objects.get(key))
    world.store.dispose()


def test_the_follower_fills_the_online_store(work: Work) -> None:
    host = address(work.cluster, work.backing.namespace, "online")
    with redis.Redis(host) as store:
        work.until("rows in the online store", store.dbsize)
    logs = ("logs", "deployment/tidemill-features")
    work.until("the follower's word", lambda: "online store filled" in work.release.kubectl(*logs))


def test_labels_and_a_window_are_judged(work: Work, flights: Flights) -> None:
    serve(work, flights, RELEASE)
    assert "labels became known" in work.job("labels")
    work.job("monitor")
    verdict = work.verdict()
    assert (verdict.status, verdict.cause) == ("judged", "none")
    assert verdict.rows == flights.day(RELEASE).height


def test_a_request_outlives_a_pipeline_api_that_is_away(work: Work) -> None:
    asked = work.project.governor.request("manual", actor="ana", reason="a new market")
    assert asked.state == "pending"
    work.until("an outcome", lambda: work.request(asked.id).outcome)
    kept = work.request(asked.id)
    assert (kept.state, kept.attempts) == ("waiting", 1)
    said = work.release.kubectl("logs", "tidemill-retrain-0")
    assert "trying again: the Kubeflow Pipelines API at" in said
    assert "does not answer" in said
    read = "--output=jsonpath={.status.containerStatuses[0].restartCount}"
    assert work.release.kubectl("get", "pod", "tidemill-retrain-0", read) == "0"
    with FakeKfp(host=node_address(work.cluster), port=KFP_PORT) as kfp:
        work.job("monitor")
        work.until("success", lambda: work.request(asked.id).state == "succeeded")
        (sent,) = kfp.runs.values()
    ran = sent["pipeline_spec"]["pipeline_spec"]
    assert ran["pipelineInfo"]["name"] == "training"
    assert sent["runtime_config"]["parameters"]["correlation_id"] == asked.correlation_id


def test_a_pipeline_api_that_refuses_is_a_persons_matter(work: Work) -> None:
    with FakeKfp(host=node_address(work.cluster), port=KFP_PORT, token="another") as kfp:
        asked = work.project.governor.request("manual", actor="ben", reason="once more")
        work.until("an escalation", lambda: work.request(asked.id).state == "escalated")
        assert not kfp.runs
    ended = work.request(asked.id)
    assert ended.attempts == 2
    assert "refused: 401" in ended.outcome


def test_a_faulty_window_is_drawn(work: Work, flights: Flights) -> None:
    work.clock.set(RELEASE + 2 * DAY + timedelta(hours=1))
    serve(work, flights, RELEASE + DAY, temp=pl.lit(None, pl.Float64))
    said = work.job("monitor")
    assert work.verdict().cause == "data_quality"
    (incident,) = work.project.incidents.all(MODEL)
    assert incident.id in said
    assert incident.report.startswith("s3://"), incident.report
    assert work.project.objects.get(incident.report.removeprefix(f"s3://{BUCKET}/state/"))


@pytest.fixture(scope="module")
def steps(work: Work, cluster_folder: Path) -> Iterator[Steps]:
    """The steps of the training pipeline, in a namespace like that of a backend's runs."""
    execution = ExecutionSettings.model_validate(
        {
            "images": {
                name: work.images[name] for name in ("features", "train") & work.images.keys()
            },
            "environment": {"AWS_ENDPOINT_URL": work.backing.endpoint},
        }
    )
    namespace = work.cluster.namespace(enforce="restricted")
    with Steps.compiled(
        work.cluster,
        namespace,
        cluster_folder / "artifacts",
        root=work.project.root,
        execution=execution,
        secrets=CREDENTIALS,
    ) as steps:
        yield steps
    work.cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def common(work: Work) -> dict[str, str]:
    """What most steps are told: the settings, by URL, and the instant of which they know."""
    at = datetime(2013, 3, 1, tzinfo=UTC).isoformat()
    return {"config": work.project.publish("settings"), "as_of": at}


@pytest.fixture(scope="module")
def training_set(steps: Steps, common: dict[str, str]) -> dict[str, Any]:
    """Two months of flights, from the source to the rows that a model is trained on."""
    assert steps.run("ingest", **common, run=RUN)["Output"] > 0
    dataset = steps.run("validate", **common, run=RUN)["dataset"]
    version = steps.run("publish", config=common["config"], dataset=dataset)["Output"]
    assert version.endswith(".dir")
    features = steps.run("featurize", **common, dataset=dataset)["features"]
    return steps.run("training_set", **common, start="", features=features)


def test_steps_up_to_the_training_set(work: Work, training_set: dict[str, Any]) -> None:
    assert training_set["Output"] > 40_000
    assert work.project.objects.list(f"runs/{RUN}/"), "the report outlives the step"


def test_the_step_that_trains(
    work: Work, steps: Steps, common: dict[str, str], training_set: dict[str, Any]
) -> None:
    if "train" not in work.images:
        pytest.skip("not built here: python -m tests.cluster.images train")
    rows = training_set["training_set"]
    steps.run("train", **common, run=RUN, trigger="manual", training_set=rows)
    assert (steps.folder / "train" / "trained" / "model.pt").is_file()
