"""The chart on a real API server: installed, at work, upgraded, rolled back, uninstalled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.bundles import make_bundle
from tests.charts.profiles import ROLLOUT
from tests.cluster.access import Cluster
from tests.cluster.installation import CHART, Backing, Release, add_images, address
from tests.cluster.rollouts import eventually, manifest
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads
from tests.registering import registered

from tidemill.domain.incidents import Incident, resolve
from tidemill.domain.verdicts import WindowVerdict
from tidemill.ports.registry import ModelVersion
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

KINDS = (
    "all,configmaps,cronjobs,leases,networkpolicies,persistentvolumeclaims,poddisruptionbudgets,"
    "rolebindings,roles,secrets,serviceaccounts,modelrollouts,analysispolicies,"
    "clusterroles,clusterrolebindings,priorityclasses"
)
MINE = "--selector=app.kubernetes.io/instance=tidemill"
DIGEST = "sha256:" + "1" * 64
TIDYING = 120.0
"""Seconds that owned objects and pods may take to go on a busy machine."""
GATEWAY = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "gateway"},
    "spec": {"listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]},
}


@dataclass(frozen=True)
class Installed:
    """The release, its values, and the project that its images hold, as this machine opens it."""

    release: Release
    values: dict[str, Any]
    project: Path
    backing: Backing

    @contextlib.contextmanager
    def opened(self, *assignments: str) -> Iterator[Project]:
        """Open the project on the release's database."""
        database = f"postgresql+psycopg://tidemill@{self.backing.host}:5432/postgres"
        settings = ("registry.verify_key=configs/signing.pub", f"storage.database={database}")
        project = Project.load(self.project, assignments=(*settings, *assignments))
        try:
            yield project
        finally:
            project.store.dispose()

    def register(self, folder: Path, name: str, scale: float) -> ModelVersion:
        """Sign a bundle with the project's key and register it at the release's MLflow."""
        host = address(self.release.access, self.release.namespace, "tidemill-mlflow")
        uri = f"registry.uri=http://{host}:5000"
        key = f"registry.signing_key={self.project.parent / 'signing.pem'}"
        with self.opened(uri, key) as project:
            return registered(project, make_bundle(folder, name, scale), "run-1")

    def scrape(self) -> str:
        """Return the controller's metrics as Prometheus gets them from its pod."""
        chosen = "--selector=app.kubernetes.io/component=controller"
        pods = json.loads(self.release.kubectl("get", "pods", chosen, "--output=json"))["items"]
        (pod,) = (one for one in pods if "deletionTimestamp" not in one["metadata"])
        (port,) = pod["spec"]["containers"][0]["ports"]
        assert port["name"] == "metrics", "the port that the chart's ServiceMonitor names"
        url = f"http://{pod['status']['podIP']}:{port['containerPort']}/metrics"
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200
        return answer.text


@pytest.fixture(scope="module")
def backing(
    cluster: Cluster, node: Workloads, gateway_api: None, cluster_folder: Path
) -> Iterator[Backing]:
    """PostgreSQL and an object store, beside which the release lives."""
    try:
        add_images(node, cluster_folder / "images")
    except NoCluster as reason:
        pytest.skip(f"NO TESTS OF RUNNING PODS: {reason}")
    namespace = cluster.namespace()
    yield Backing.start(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def installed(cluster: Cluster, backing: Backing, cluster_folder: Path) -> Iterator[Installed]:
    """The release, where Pod Security admits nothing but `restricted`."""
    namespace = cluster.namespace(enforce="restricted")
    values = {
        "settings": backing.settings
        | {
            "data": {"start": "2013-12"},
            "registry": {"verify_key": "configs/signing.pub"},
            "serving": {"auth": {"allow_anonymous": True}},
        },
        "secretName": backing.secret(cluster, namespace),
        "images": {"serve": {"digest": DIGEST}, "registry": {"digest": DIGEST}},
        "mlflow": {"persistence": {"enabled": False}, "hosts": ["198.18.*"]},
    }
    release = Release(cluster, namespace)
    release.upgrade(values)
    yield Installed(release, values, cluster_folder / "images" / "project", backing)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def release(installed: Installed) -> Release:
    return installed.release


def deployment(release: Release, part: str) -> dict[str, Any]:
    found = release.kubectl("get", "deployment", f"tidemill-{part}", "--output=json")
    return json.loads(found)  # type: ignore[no-any-return]


def test_its_own_test_passes(release: Release) -> None:
    said = release.helm("test", release.name)
    assert "Succeeded" in said


def test_the_controller_looks_after_a_rollout(release: Release) -> None:
    release.kubectl("apply", "-f", "-", stdin=json.dumps(manifest(release.namespace)))
    owned = ("get", "deployments,services,httproutes", "--output=name")
    chosen = "--selector=serving.tidemill.dev/rollout=flight-delay"

    def made() -> set[str]:
        names = release.kubectl(*owned, chosen).split()
        return {name.split(".")[0].split("/")[0] for name in names}

    eventually(lambda: made() >= {"deployment", "service"})
    release.kubectl("delete", "modelrollout", "flight-delay")
    eventually(lambda: not release.kubectl(*owned, chosen).split())


def test_what_a_monitor_found_is_scraped_of_the_controller(installed: Installed) -> None:
    seen = ("2013-05-01T00:00:00+00:00", "2013-05-02T00:00:00+00:00")
    raised = Incident(
        *("inc-1", "Watched", "rev", "skew", (), "open", seen[1], *seen, seen[1]), (), (),
        retraining=False,
    )  # fmt: skip
    name = "tidemill_incident_first_seen_timestamp_seconds"
    with installed.opened() as project:
        project.windows.save(WindowVerdict("Watched", "rev", *seen, 900, 900, "judged"))
        stands = project.incidents.save(raised)
        found = installed.scrape()
        project.incidents.save(resolve(stands, "me", "mended", datetime.now(UTC)))
        after = installed.scrape()
    series = f'{name}{{cause="skew",incident="inc-1",model="Watched",revision="rev",state="open"}}'
    assert f"{series} 1.3673664e+09\n" in found
    assert "tidemill_monitor_store_up 1.0\n" in found
    assert "tidemill_rollout_leader 1.0\n" in found
    last = 'tidemill_monitor_last_window_timestamp_seconds{model="Watched"}'
    assert last in found
    assert last in after
    assert f"{name}{{" not in after


def test_a_registered_model_serves_all_traffic(
    installed: Installed, gateway: str, tmp_path: Path
) -> None:
    release = installed.release
    body = GATEWAY | {"spec": GATEWAY["spec"] | {"gatewayClassName": gateway}}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    version = installed.register(tmp_path / "bundle", "Churn", 0.001)
    model = ROLLOUT["model"] | {"version": version.version, "digest": version.tags["digest"]}
    entry = {"name": "churn", "model": "Churn", "rollout": ROLLOUT | {"model": model}}
    installed.values["models"] = [entry]
    release.upgrade(installed.values)
    release.kubectl("wait", "mro/churn", "--for=condition=Promoted", "--timeout=300s")
    release.kubectl("wait", "gateway/gateway", "--for=condition=Programmed", "--timeout=300s")
    read = "--output=jsonpath={.status.addresses[0].value}"
    where = release.kubectl("get", "gateway/gateway", read)
    answer = httpx.post(
        f"http://{where}:8080/v2/models/Churn/infer",
        json={
            "inputs": [
                {"name": "distance", "datatype": "FP32", "shape": [1], "data": [1000.0]},
                {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["UA"]},
                {"name": "flight_id", "datatype": "BYTES", "shape": [1], "data": ["1"]},
            ]
        },
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == pytest.approx([0.7310586])


def test_the_monitor_may_look_whether_a_rollout_is_in_flight(release: Release) -> None:
    """In its pod, under its own account: the governor accepts what it could not tell otherwise."""
    found = json.loads(release.kubectl("get", "cronjob/tidemill-monitor-churn", "--output=json"))
    work = found["spec"]["jobTemplate"]["spec"]
    wish = ["retrain", "request", "--cause", "ci", "-m", "new features", "--no-start"]
    (container,) = work["template"]["spec"]["containers"]
    container["args"] = wish
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "asks"}, "spec": work}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    release.kubectl("wait", "job/asks", "--for=condition=complete", "--timeout=300s", check=False)
    said = release.kubectl("logs", "job/asks")
    release.kubectl("delete", "job/asks", "--cascade=foreground")
    assert "is pending: RUN" in said, said


@pytest.mark.parametrize(
    ("part", "condition", "words"),
    [
        ("labels", "complete", "labels became known"),
        ("monitor", "failed", "there is no prediction log of Other"),
    ],
)
def test_a_job_of_a_model_runs(installed: Installed, part: str, condition: str, words: str) -> None:
    release = installed.release
    known = [one for one in installed.values.get("models", []) if one["name"] != "other"]
    installed.values["models"] = [*known, {"name": "other", "model": "Other"}]
    release.upgrade(installed.values)
    job = f"{part}-now"
    release.kubectl("create", "job", job, f"--from=cronjob/tidemill-{part}-other")
    release.kubectl("wait", f"job/{job}", f"--for=condition={condition}", "--timeout=300s")
    assert words in release.kubectl("logs", f"job/{job}")


def test_an_upgrade_and_the_way_back(installed: Installed, tmp_path: Path) -> None:
    release = installed.release
    before = json.loads(release.helm("history", release.name, "--output=json"))[-1]["revision"]
    release.helm("package", CHART, "--version=0.1.1", f"--destination={tmp_path}")
    packed = tmp_path / "tidemill-0.1.1.tgz"
    release.upgrade(installed.values | {"controller": {"replicas": 2}}, chart=packed)
    upgraded = deployment(release, "controller")
    assert upgraded["status"]["readyReplicas"] == 2
    assert upgraded["metadata"]["labels"]["helm.sh/chart"] == "tidemill-0.1.1"
    release.helm("rollback", release.name, str(before), "--wait", "--timeout=300s")
    assert deployment(release, "controller")["spec"]["replicas"] == 1


def test_what_is_left_is_what_was_said(release: Release, cluster: Cluster) -> None:
    release.helm("uninstall", release.name, "--wait", "--timeout=300s")

    def left() -> set[str]:
        """Find what the release had; what belongs to no namespace has this one in its name."""
        found = json.loads(release.kubectl("get", KINDS, MINE, "--output=json"))["items"]
        mine = [
            one
            for one in found
            if "namespace" in one["metadata"] or release.namespace in one["metadata"]["name"]
        ]
        return {f"{one['kind']}/{one['metadata']['name']}".rpartition("-")[0] for one in mine}

    kept = {"ConfigMap/tidemill-churn", "ConfigMap/tidemill-other"}
    with contextlib.suppress(AssertionError):
        eventually(lambda: left() <= kept, TIDYING)
    assert left() <= kept
    owned = ("get", "all", "--selector=serving.tidemill.dev/rollout", "--output=name")
    eventually(lambda: release.kubectl(*owned) == "", TIDYING)
    crds = cluster.kubectl("get", "crds", "--output=name")
    assert "modelrollouts.serving.tidemill.dev" in crds, "helm keeps what holds the rollouts"
