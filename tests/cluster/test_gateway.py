"""The stand-in for a Gateway API implementation: real routes, real requests, honest statuses."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster.access import Cluster
from tests.cluster.gateway.routes import Backend, seconds, translate
from tests.cluster.node.images import Image
from tests.cluster.workloads import Workloads

STABLE = {"name": "stable", "port": 80}
CANARY = {"name": "canary", "port": 80}
TIMEOUT = "--timeout=300s"


class Edge:
    """A Gateway with two versions behind it; `route` puts a rule on it and waits for its status."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.inside = cluster, ("--namespace", namespace)
        address = "--output=jsonpath={.status.addresses[0].value}"
        cluster.kubectl("apply", "-f", Path(__file__).with_name("gateway.yaml"), *self.inside)
        cluster.kubectl("wait", "pods", "--all", "--for=condition=Ready", TIMEOUT, *self.inside)
        programmed = ("--for=condition=Programmed", TIMEOUT)
        cluster.kubectl("wait", "gateway/edge", *programmed, *self.inside)
        self.url = f"http://{cluster.kubectl('get', 'gateway/edge', address, *self.inside)}:8080"
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=10)

    def route(self, *rules: dict[str, Any], kind: str = "HTTPRoute") -> dict[str, tuple[str, str]]:
        """Return status and reason of each condition, once they are about these rules."""
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "model"},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": list(rules)},
        }
        apply = ("apply", "-f", "-", "--output=jsonpath={.metadata.generation}")
        generation = self.cluster.kubectl(*apply, *self.inside, stdin=json.dumps(body))
        what = "{.status.parents[0].conditions[?(@.type=='Accepted')].observedGeneration}"
        wait = ("wait", f"{kind.lower()}/model", f"--for=jsonpath={what}={generation}", TIMEOUT)
        self.cluster.kubectl(*wait, *self.inside)
        found = self.cluster.kubectl("get", kind, "model", "--output=json", *self.inside)
        conditions = json.loads(found)["status"]["parents"][0]["conditions"]
        return {one["type"]: (one["status"], one["reason"]) for one in conditions}

    def create(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        meta = {"name": name, "labels": {"app": name}}
        body = {"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": spec}
        self.cluster.kubectl("apply", "-f", "-", *self.inside, stdin=json.dumps(body))

    def ask(self, times: int) -> Counter[str]:
        answers = [self.client.get("/ask").raise_for_status().text for _ in range(times)]
        return Counter(answer.split()[0] for answer in answers)

    def asked(self, version: str) -> int:
        """Return how many requests one version has had, asked at its own service."""
        address = ("service", version, "--output=jsonpath={.spec.clusterIP}")
        host = self.cluster.kubectl("get", *address, *self.inside)
        return int(httpx.get(f"http://{host}/", trust_env=False).text.split()[1])


@pytest.fixture(scope="module")
def edge(cluster: Cluster, node: Workloads, gateway: str) -> Iterator[Edge]:
    node.add_image("test/python", Image(entrypoint=[sys.executable]))
    name = cluster.namespace()
    edge = Edge(cluster, name)
    yield edge
    edge.client.close()
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_weights_split_requests_as_soon_as_the_status_says_so(edge: Edge) -> None:
    good = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
    assert edge.route({"backendRefs": [STABLE | {"weight": 1}, CANARY | {"weight": 0}]}) == good
    assert edge.ask(20) == {"stable": 20}
    edge.route({"backendRefs": [STABLE | {"weight": 80}, CANARY | {"weight": 20}]})
    # Envoy draws: 80 of 400 expected, with a standard deviation of 8; six of them are allowed.
    assert 32 <= edge.ask(400)["canary"] <= 128
    edge.route({"backendRefs": [STABLE | {"weight": 0}, CANARY | {"weight": 1}]})
    assert edge.ask(20) == {"canary": 20}


def test_a_mirror_gets_what_the_other_answers(edge: Edge) -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": CANARY}}
    edge.route({"backendRefs": [STABLE], "filters": [mirror]})
    before = edge.asked("canary")
    assert edge.ask(50) == {"stable": 50}
    assert edge.asked("canary") - before >= 49, "the last one may be on its way"


def test_a_share_without_a_service_is_answered_with_500(edge: Edge) -> None:
    status = edge.route({"backendRefs": [{"name": "nobody", "port": 80}]})
    assert status["Accepted"] == ("True", "Accepted")
    assert status["ResolvedRefs"] == ("False", "BackendNotFound")
    assert edge.client.get("/ask").status_code == 500


def test_the_most_specific_match_wins(edge: Edge) -> None:
    header = {"headers": [{"name": "x-canary", "value": "yes"}]}
    edge.route(
        {"backendRefs": [STABLE]},
        {"backendRefs": [CANARY], "matches": [header]},
        {"backendRefs": [CANARY], "matches": [{"path": {"type": "Exact", "value": "/x"}}]},
    )
    assert edge.ask(1) == {"stable": 1}
    assert edge.client.get("/ask", headers={"x-canary": "yes"}).text.startswith("canary")
    assert edge.client.get("/x").text.startswith("canary")
    assert edge.client.get("/x/y").text.startswith("stable")


def test_what_it_cannot_do_is_not_accepted(edge: Edge) -> None:
    rewrite = {"type": "URLRewrite", "urlRewrite": {"hostname": "other"}}
    status = edge.route({"backendRefs": [STABLE], "filters": [rewrite]})
    assert status["Accepted"] == ("False", "UnsupportedValue")


ECHO = """
import concurrent.futures, grpc, sys

def answer(request, context):
    return sys.argv[1].encode() + b" " + request

methods = {"Say": grpc.unary_unary_rpc_method_handler(answer)}
server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", methods)])
server.add_insecure_port("0.0.0.0:8080")
server.start()
server.wait_for_termination()
"""


def test_grpc_calls_are_routed_by_method(edge: Edge) -> None:
    import grpc

    for name in ("one", "two"):
        container = {
            "name": "main",
            "image": "test/python",
            "args": ["-c", ECHO, name],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }
        pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
        service = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
        edge.create("Pod", name, pod)
        edge.create("Service", name, service)
    edge.cluster.kubectl(
        "wait", "pod/one", "pod/two", "--for=condition=Ready", TIMEOUT, *edge.inside
    )
    match = {"method": {"service": "test.Echo", "method": "Say"}}
    backends = [{"name": "one", "port": 80, "weight": 1}, {"name": "two", "port": 80, "weight": 1}]
    status = edge.route({"matches": [match], "backendRefs": backends}, kind="GRPCRoute")
    assert status["ResolvedRefs"] == ("True", "ResolvedRefs")
    with grpc.insecure_channel(edge.url.removeprefix("http://")) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert {say(b"hello") for _ in range(50)} == {b"one hello", b"two hello"}
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/test.Echo/Shout")(b"hello")


def test_a_grpc_method_is_a_path() -> None:
    route = {
        "kind": "GRPCRoute",
        "metadata": {"name": "r", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "rules": [
                {
                    "matches": [{"method": {"service": "inference.v2", "method": "Infer"}}],
                    "backendRefs": [STABLE | {"weight": 3}, CANARY],
                }
            ]
        },
    }
    ((_, made),) = translate(route, lambda _, one: Backend("n", one["name"], 80, grpc=True))
    assert made["match"] == {"headers": [], "path": "/inference.v2/Infer"}
    assert made["route"]["weighted_clusters"]["clusters"] == [
        {"name": "n/stable/80/grpc", "weight": 3},
        {"name": "n/canary/80/grpc", "weight": 1},
    ]


def test_durations_are_read() -> None:
    assert [seconds(one) for one in ("1h30m", "10s", "250ms")] == [5400, 10, 0.25]
