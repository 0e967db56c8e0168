"""The chart on a real API server: installed, at work, uninstalled."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.bundles import LONG, LONGEST, SHORT, make_bundle
from tests.charts.profiles import ROLLOUT
from tests.cluster import restricted
from tests.cluster.access import Cluster
from tests.cluster.endings import story, succeeds
from tests.cluster.installation import Backing, Opened, Release, add_images, address
from tests.cluster.rollouts import eventually, manifest
from tests.cluster.served import SETTINGS
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads
from tests.refusal import NO_PODS, refuse
from tests.serving import body

from tidemill.domain.incidents import Incident, resolve
from tidemill.domain.verdicts import WindowVerdict

pytestmark = pytest.mark.slow

KINDS = (
    "all,configmaps,cronjobs,leases,networkpolicies,persistentvolumeclaims,poddisruptionbudgets,"
    "rolebindings,roles,secrets,serviceaccounts,clusterroles,clusterrolebindings,priorityclasses"
)
OURS = "modelrollouts,analysispolicies"
"""Kinds that there are from the first installation on."""
MINE = "--selector=app.kubernetes.io/instance=tidemill"
HASH = re.compile(r"-[0-9a-f]{8}$")
"""What names of ConfigMaps end with: of what they hold."""
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
class Installed(Opened):
    """The release under test."""

    values: dict[str, Any]
    before: set[str]
    """What was in the namespace before the release."""

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
        refuse(NO_PODS, reason)
    namespace = cluster.namespace()
    yield Backing.start(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def things(release: Release, kinds: str = f"{KINDS},{OURS}") -> set[str]:
    """Return all of the release's namespace, and what of the whole cluster has it in its name."""
    found = json.loads(release.kubectl("get", kinds, "--output=json"))["items"]
    return {
        f"{one['kind']}/{HASH.sub('', one['metadata']['name'])}"
        for one in found
        if "namespace" in one["metadata"] or release.namespace in one["metadata"]["name"]
    }


@pytest.fixture(scope="module")
def volume(cluster: Cluster, cluster_folder: Path) -> Iterator[str]:
    """A namespace, where a volume waits for MLflow's claim."""
    namespace = cluster.namespace(enforce="restricted")
    name = f"mlflow-{namespace}"
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "10Gi"},
        "claimRef": {"namespace": namespace, "name": "tidemill-mlflow"},
        "hostPath": {"path": str(cluster_folder / name)},
    }
    body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body | {"spec": spec}))
    yield namespace
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


@pytest.fixture(scope="module")
def installed(cluster: Cluster, backing: Backing, cluster_folder: Path, volume: str) -> Installed:
    """The release, where Pod Security admits nothing but `restricted`."""
    namespace = volume
    values = {
        "settings": backing.settings
        | {
            "data": {"start": "2013-12"},
            "registry": {"verify_key": "configs/signing.pub"},
            "serving": {"auth": {"allow_anonymous": True}},
        },
        "secretName": backing.secret(cluster, namespace),
        "images": {"serve": {"digest": DIGEST}, "registry": {"digest": DIGEST}},
        "mlflow": {"hosts": ["198.18.*"]},
        "judge": {"enabled": True},
    }
    release = Release(cluster, namespace)
    before = things(release, KINDS)
    release.upgrade(values)
    return Installed(release, cluster_folder / "images" / "project", backing, values, before)


@pytest.fixture
def release(installed: Installed) -> Release:
    return installed.release


def notes(release: Release) -> list[str]:
    """Return the commands that the release's notes name; a watch would not end."""
    said = release.helm("get", "notes", release.name)
    return re.findall(r"^  ((?:helm|kubectl) .+?)(?: -w)?$", said, re.M)


def test_the_commands_that_its_notes_name_next_work(release: Release) -> None:
    check, explain = (shlex.split(command) for command in notes(release))
    assert check == ["helm", "test", release.name, "-n", release.namespace]
    assert "Succeeded" in release.access.helm(*check[1:])
    assert "FIELDS" in release.access.kubectl(*explain[1:])


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
    _, watch = (shlex.split(command) for command in notes(release))
    assert "churn" in release.access.kubectl(*watch[1:])
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
    succeeds(release.access, release.namespace, "job/asks")
    said = release.kubectl("logs", "job/asks")
    release.kubectl("delete", "job/asks", "--cascade=foreground")
    assert "is pending: RUN" in said, said


@pytest.fixture
def asking() -> Iterator[httpx.Client]:
    """A client that tries again where a Service does not listen yet."""
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(transport=transport, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def send(installed: Installed, asking: httpx.Client) -> Iterator[Callable[[str, Any], None]]:
    """Run two servers under the names that Flagger gives; send a row to one by its Service."""
    release = installed.release
    make_bundle(installed.project / "judged", "Judged", longest=LONGEST)
    command = ["tidemill", "serve", "--bundle", "judged", "--host", "0.0.0.0", "--port", "8080"]
    probe = {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 1}
    arms = ("judged-primary", "judged-canary")
    for arm in arms:
        pod = restricted.pod(arm, "tidemill/serve", command, env=SETTINGS)
        pod["metadata"]["labels"] = {"app": arm}
        pod["spec"]["containers"][0]["readinessProbe"] = probe
        release.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        release.kubectl("expose", "pod", arm, "--port=8080")
    release.kubectl("wait", "--for=condition=Ready", "--timeout=300s", *(f"pod/{a}" for a in arms))
    hosts = {arm: address(release.access, release.namespace, arm) for arm in arms}

    def send(arm: str, row: Any) -> None:
        url = f"http://{hosts[f'judged-{arm}']}:8080/v2/models/Judged/infer"
        asking.post(url, json=body(row)).raise_for_status()

    yield send
    release.kubectl("delete", "pod,service", *arms)


def test_the_judge_answers_argo_and_flagger(
    release: Release, asking: httpx.Client, send: Callable[[str, Any], None]
) -> None:
    """In its pods, under its own account; what it cannot see passes nowhere."""
    judge = f"http://{address(release.access, release.namespace, 'tidemill-judge')}:8090/v1"
    servers = f"{release.namespace}/judged"

    def argo(attempt: str, **asked: str) -> Any:
        arms = {"stable": f"{servers}-primary", "canary": f"{servers}-canary"}
        question = {"attempt": attempt, "weight": "50"} | arms | asked
        return asking.post(f"{judge}/judge", json=question).json()

    def flagger(hook: str, **metadata: str) -> tuple[int, str]:
        payload = {
            "name": "judged",
            "namespace": release.namespace,
            "phase": "Progressing",
            "checksum": "1",
            "metadata": {"gate": "errors"} | metadata,
        }
        answer = asking.post(f"{judge}/flagger/{hook}", json=payload)
        return answer.status_code, answer.text

    def decided(attempt: str, row: Any, **asked: str) -> Any:
        for _ in range(10):
            send("primary", SHORT)
            send("canary", row)
        found = argo(attempt, **asked)
        return found["verdict"] in ("pass", "harm") and found

    good = eventually(lambda: decided("good", SHORT, min_events="40"))
    assert good["verdict"] == "pass", good
    bad = eventually(lambda: decided("bad", LONG, gate="errors"))
    assert (bad["verdict"], bad["metrics"]["errors"]["bad"]["stable"]) == ("harm", 0), bad
    assert flagger("rollback", attempt="bad", weight="50")[0] == 200
    unseen = argo("unseen", canary=f"{servers}-nowhere", gate="errors")
    assert (unseen["verdict"], unseen["reason"]) == (
        "missing",
        f"the Service {servers}-nowhere has no ready endpoint",
    )
    status, said = flagger("confirm-promotion")
    assert status == 409
    assert said.startswith("missing: "), "there is no Canary that has its weight"
    assert "forbidden" not in said


@pytest.mark.parametrize(
    ("part", "well", "words"),
    [
        ("labels", True, "labels became known"),
        ("monitor", False, "there is no prediction log of Other"),
    ],
)
def test_a_job_of_a_model_runs(installed: Installed, part: str, well: bool, words: str) -> None:
    release = installed.release
    known = [one for one in installed.values.get("models", []) if one["name"] != "other"]
    installed.values["models"] = [*known, {"name": "other", "model": "Other"}]
    release.upgrade(installed.values)
    job = f"{part}-now"
    release.kubectl("create", "job", job, f"--from=cronjob/tidemill-{part}-other")
    where = release.access, release.namespace
    assert succeeds(*where, f"job/{job}") is well, story(*where)
    assert words in release.kubectl("logs", f"job/{job}")


def test_what_is_left_is_what_was_said(installed: Installed, cluster: Cluster) -> None:
    """The controller's Lease too goes: its pod may no longer give it back, the rights go first."""
    release = installed.release
    assert "Lease/tidemill-rollout-controller" in things(release)
    models = [one["name"] for one in installed.values.get("models", [])]
    # What install.md says that stays.
    kept = {"PersistentVolumeClaim/tidemill-mlflow", *(f"ConfigMap/tidemill-{m}" for m in models)}
    release.helm("uninstall", release.name, "--wait", "--timeout=300s")
    with contextlib.suppress(AssertionError):
        eventually(lambda: things(release) - installed.before == kept, TIDYING)
    assert things(release) - installed.before == kept
    release.kubectl("delete", "configmap,persistentvolumeclaim", MINE)
    assert things(release) == installed.before
    crds = cluster.kubectl("get", "crds", "--output=name")
    assert "modelrollouts.serving.tidemill.dev" in crds, "helm keeps what holds the rollouts"
