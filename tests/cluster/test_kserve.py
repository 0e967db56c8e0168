"""KServe takes our manifests, and the model server runs as KServe would start it.

The schemas are KServe's own, out of its Go module. Its controller is not run: the pod is made of
the runtime's container as its docs say, the name put in and the bundle mounted at /mnt/models.
"""

from __future__ import annotations

import base64
import copy
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import yaml
from tests.cluster.access import CommandFailed
from tests.cluster.delivery import SOURCE, define, module
from tests.cluster.node.images import Image
from tests.cluster.rollouts import ROOT
from tests.serving import FULL, TIDEMILL, body, make_project

pytestmark = pytest.mark.slow

KSERVE = "github.com/kserve/kserve@v0.20.0"
MANIFESTS = ROOT / "serving/kserve"


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def kserve(cluster) -> Any:
    """The cluster with KServe's definitions."""
    folder = module(KSERVE) / "config/crd/full"
    kinds = ("servingruntimes", "inferenceservices")
    files = [folder / f"serving.kserve.io_{kind}.yaml" for kind in kinds]
    define(cluster, files)
    return cluster


def dry_run(kserve: Any, namespace: str, body: dict[str, Any]) -> str:
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--namespace", namespace)
    return kserve.kubectl("apply", *options, "-f", "-", stdin=json.dumps(body))


@pytest.mark.parametrize("name", ["servingruntime", "inferenceservice"])
def test_kserves_schema_takes_the_manifest(kserve, namespace, name):
    assert "serverside-applied (server dry run)" in dry_run(kserve, namespace, manifest(name))


@pytest.mark.parametrize(
    ("name", "path", "value", "why"),
    [
        ("servingruntime", ("spec", "containers", 0, "arg"), [], "field not declared"),
        ("servingruntime", ("spec", "protocolVersions"), "v2", "protocolVersions"),
        ("inferenceservice", ("spec", "predictor", "model", "modelFormat"), {}, "name"),
        ("inferenceservice", ("spec", "predictor", "minReplicas"), "two", "minReplicas"),
    ],
)
def test_it_would_have_refused_a_mistake(kserve, namespace, name, path, value, why):
    wrong = copy.deepcopy(manifest(name))
    place: Any = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CommandFailed, match=why):
        dry_run(kserve, namespace, wrong)


def test_the_service_names_what_the_runtime_offers():
    runtime, service = manifest("servingruntime"), manifest("inferenceservice")
    model = service["spec"]["predictor"]["model"]
    formats = [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


@pytest.fixture(scope="module")
def server(kserve, node, tmp_path_factory) -> Iterator[str]:
    """The runtime's container in a restricted namespace; yields the pod's address."""
    project = make_project(tmp_path_factory.mktemp("kserve"))
    entrypoint = [sys.executable, str(TIDEMILL)]
    node.add_image("test/kserve", Image(entrypoint=entrypoint, workdir="/project"))
    namespace = kserve.namespace(enforce="restricted")

    def apply(*found: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(found)}
        kserve.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(listed))

    claim = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "volumeName": f"bundle-{namespace}",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    volume = {
        "accessModes": ["ReadOnlyMany"],
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": str(project.bundle)},
    }
    configs = {"base.yaml": (ROOT / "configs/base.yaml").read_text(), "local.yaml": "{}"}
    key = base64.b64encode(project.public_key.read_bytes()).decode()
    apply(
        {"apiVersion": "v1", "kind": "PersistentVolume",
         "metadata": {"name": f"bundle-{namespace}"}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": "bundle"}, "spec": claim},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tidemill-verify-key"},
         "data": {"signing.pub": key}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tidemill"},
         "data": {"OMP_NUM_THREADS": "1"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "project"},
         "data": configs},
    )  # fmt: skip
    apply(_pod(manifest("servingruntime")["spec"]))
    kserve.kubectl("wait", "-n", namespace, "pod/model", "--for=condition=Ready", "--timeout=300s")
    found = json.loads(kserve.kubectl("get", "-n", namespace, "pod/model", "-o", "json"))
    yield found["status"]["podIP"]
    kserve.kubectl("delete", "namespace", namespace, "--wait=false")
    kserve.kubectl("delete", "pv", f"bundle-{namespace}", "--wait=false")


def _pod(runtime: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that KServe makes of the runtime for the InferenceService `flight-delay`.

    In place of the image: this machine's files, and the project's configuration. So /tmp is not
    hidden, where this checkout may lie.
    """
    (container,) = runtime["containers"]
    assert container.pop("command") == ["tidemill"]
    name = manifest("inferenceservice")["metadata"]["name"]
    here = {"PYTHONPATH": SOURCE, "HOME": "/scratch", "TMPDIR": "/scratch"}
    container |= {
        "name": container["name"],
        "image": "test/kserve",
        "args": [part.replace("{{.Name}}", name) for part in container["args"]],
        "env": [*container["env"], *[{"name": k, "value": v} for k, v in here.items()]],
    }
    (tmp,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp")
    tmp["mountPath"] = "/scratch"
    container["volumeMounts"] += [
        {"name": "model", "mountPath": "/mnt/models", "readOnly": True},
        {"name": "project", "mountPath": "/project/configs", "readOnly": True},
    ]
    volumes = [
        *runtime["volumes"],
        {"name": "model", "persistentVolumeClaim": {"claimName": "bundle", "readOnly": True}},
        {"name": "project", "configMap": {"name": "project"}},
    ]
    spec = {"containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model"}, "spec": spec}


def test_it_answers_under_the_services_name(server):
    url = f"http://{server}:8080/v2/models/flight-delay"
    ready = httpx.get(f"{url}/ready", trust_env=False)
    assert ready.status_code == 200
    answer = httpx.post(f"{url}/infer", json=body(FULL), trust_env=False)
    assert answer.status_code == 200, answer.text
    (score,) = answer.json()["outputs"][0]["data"]
    assert 0 <= score <= 1


def test_grpc_is_where_kserve_finds_it(server):
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    deadline = time.monotonic() + 30
    with grpc.insecure_channel(f"{server}:8081") as channel:
        grpc.channel_ready_future(channel).result(timeout=deadline - time.monotonic())
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
    assert answer.status == HealthCheckResponse.SERVING
