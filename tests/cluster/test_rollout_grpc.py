"""A rollout with a GRPCRoute: real servers in pods, asked over gRPC through the gateway.

The pods run as root and see this machine's /tmp, where the test's Python and project lie; what they
are told to do is what every rollout's pods are told.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.bundles import LONG, LONGEST, SHORT
from tests.cluster.node.images import Image
from tests.cluster.rollouts import client, eventually, manifest
from tests.cluster.served import SLOW, World, promoted, scraped, served_world
from tests.serving import ROOT, make_project
from tests.shadowed import Connect
from tests.tritons import over_grpc
from tests.unit.rollout_world import START

from tidemill.adapters.kubernetes import pods, workloads
from tidemill.adapters.kubernetes.client import GRPC_ROUTES, ROLLOUTS, SERVICES, KubeClient
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.domain.rollout.model import Backend, Revision, Route

NAME = "flight-delay"
TRAFFIC = {"kind": "GRPCRoute", "parentRefs": [{"name": "edge"}], "settleSeconds": 0}
IMAGE = "registry.test/tidemill/grpc@sha256:" + "2" * 64
PATIENCE = 120.0
METRICS = [
    {"name": "slow", "event": "slow", "passRatio": "2"},
    {"name": "errors", "event": "error", "passRatio": "2"},
]
STEPS = [
    {"name": "c20", "weight": 2000, "minEvents": 50},
    {"name": "c50", "weight": 5000, "gate": ["slow"], "minEvents": 200},
]
OK = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def api(cluster, gateway) -> Iterator[KubeClient]:
    crds = ROOT / "charts/tidemill/crds"
    named = [part for file in sorted(crds.glob("*.yaml")) for part in ("-f", str(file))]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *named)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=300s")
    with client(cluster) as api:
        yield api


@pytest.fixture
def served(cluster, api, node, namespace, tmp_path, monkeypatch) -> Iterator[Owner]:
    """A rollout in whose pods this machine's tidemill serves a real bundle."""
    project = make_project(tmp_path)
    bundle = tmp_path / "models/bundles" / project.revision
    shutil.copytree(project.bundle, bundle)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "TIDEMILL_PROJECT": str(project.root),
        "TIDEMILL_SERVING__AUTH__ALLOW_ANONYMOUS": "true",
        "OMP_NUM_THREADS": "1",
    }
    node.add_image(IMAGE, Image(env=environment, workdir=str(project.root)))
    monkeypatch.setattr(workloads, "server_pod", on_this_machine(tmp_path))
    spec = {
        "model__digest": "sha256:" + project.revision + "0" * 54,
        "runtime__image": IMAGE,
        "runtime__replicas": 1,
        "traffic": TRAFFIC,
        "traffic__settleSeconds": 0,
    }
    made = api.create(ROLLOUTS, manifest(namespace, **spec))
    owner = Owner(namespace, NAME, made["metadata"]["uid"])
    yield owner
    api.delete(ROLLOUTS, namespace, NAME)
    project.close()


def on_this_machine(folder: Path) -> Any:
    """Return what makes a pod that may read this machine's Python and the test's files."""

    def make(*arguments: Any, **options: Any) -> dict[str, Any]:
        pod = pods.server_pod(*arguments, **options)
        pod["securityContext"] = {"runAsUser": 0, "runAsGroup": 0}
        folders = {"models": str(folder / "models"), "tmp": "/tmp"}
        pod["volumes"] = [
            {"name": v["name"], "hostPath": {"path": folders[v["name"]]}}
            if v["name"] in folders
            else v
            for v in pod["volumes"]
        ]
        return pod

    return make


def wanted(api: KubeClient, namespace: str) -> Revision:
    found = ResourceRollouts(api, namespace, lambda: START).spec(NAME)
    assert found
    return found.desired


def healthy(target: str) -> bool:
    """Ask once: an endpoint that the gateway has not heard of yet is none for it."""
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return answer.status == OK


@pytest.mark.slow
def test_clients_reach_the_servers_over_grpc(cluster, api, served):
    namespace, revision = served.namespace, wanted(api, served.namespace)
    servers = DeploymentWorkloads(api, served, replicas=1, grpc=True)
    servers.ensure(revision)
    seen = eventually(
        lambda: (w := servers.observe()[revision.revision]).ready == 1 and w, PATIENCE
    )
    (host,) = seen.servers.values()
    itself = f"{host.rpartition(':')[0]}:{pods.GRPC_PORT}"
    eventually(lambda: healthy(itself), PATIENCE)
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": namespace},
        "spec": {
            "gatewayClassName": "tidemill-test",
            "listeners": [{"name": "http", "protocol": "HTTP", "port": 8080}],
        },
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(gateway))
    cluster.kubectl(
        "wait", "gateway/edge", "-n", namespace, "--for=condition=Programmed", "--timeout=300s"
    )
    router = GatewayRouter(api, served, Traffic.model_validate(TRAFFIC))
    split = Route((Backend(revision.revision, 10_000),))
    router.apply(split, {})
    eventually(lambda: router.observe() == split, PATIENCE)
    where = ("--output=jsonpath={.status.addresses[0].value}", "-n", namespace)
    edge = cluster.kubectl("get", "gateway/edge", *where)
    eventually(lambda: healthy(f"{edge}:8080"), PATIENCE)
    assert (
        api.get(GRPC_ROUTES, namespace, NAME)["spec"]["rules"][0]["backendRefs"][0]["port"] == 8081
    )


def test_with_an_http_route_nobody_listens_for_grpc(api, served):
    revision = wanted(api, served.namespace)
    servers = DeploymentWorkloads(api, served, replicas=1)
    servers.ensure(revision)
    service = api.get(SERVICES, served.namespace, served.object_name(revision.revision))
    assert "grpc" not in [port["name"] for port in service["spec"]["ports"]]
    container = pods.server_pod(revision, {})["containers"][0]
    assert "--grpc-port" not in container["args"]
    assert "grpc" not in [port["name"] for port in container["ports"]]


class GrpcWorld(World):
    """Its clients call ModelInfer."""

    def connect(self) -> Connect:
        return over_grpc(self.edge, NAME)


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[GrpcWorld]:
    spec = {
        "traffic": {"kind": "GRPCRoute", "parentRefs": [{"name": "gateway"}]},
        "strategy__steps": STEPS,
        "analysis": {"inline": {"metrics": METRICS}},
    }
    with served_world(
        cluster, node, namespace, tmp_path, scraped, SLOW, GrpcWorld, **spec
    ) as world:
        yield world


@pytest.mark.slow
def test_a_canary_over_grpc_is_promoted_and_one_that_fails_rolled_back(world: GrpcWorld) -> None:
    first, second, failing = world.make("1"), world.make("2"), world.make("3", LONGEST)
    world.want(first)
    world.wait_for_deployment()
    with world.clients([SHORT, LONG]):
        world.want(second)
        world.wait(lambda s: promoted(s) and s["phase"] == "stable" and s.get("history"))
        assert world.status()["history"][0]["outcome"] == "promoted"
        assert world.answered["1"] > 0
        world.want(failing)
        world.wait(lambda s: len(s.get("history", [])) == 2)
        ended = world.status()["history"][0]
        assert (ended["outcome"], ended["reason"][:14]) == ("rolled_back", "harm in errors")
        eventually(lambda: world.status()["stable"]["version"] == "2")
    assert world.answered["failed"] == 0, "the share of the event answers for a model that fails"
    assert world.answered["2"] > 0
