"""The parts of the node that need no cluster."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.cluster.node.dns import answer
from tests.cluster.node.enter import inside
from tests.cluster.node.manifest import Manifest, expand, unsupported
from tests.cluster.node.services import Port, Services

WEB = {
    "metadata": {"name": "web", "namespace": "n"},
    "spec": {"clusterIP": "198.18.0.9", "ports": [{"name": "http", "port": 80}]},
}
PODS = {"metadata": {"name": "pods", "namespace": "n"}, "spec": {"clusterIP": "None"}}


def slice_of(service: str) -> dict[str, object]:
    ready, late = {"conditions": {"ready": True}}, {"conditions": {"ready": False}}
    return {
        "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            ready | {"addresses": ["198.19.0.2"], "hostname": "zero"},
            ready | {"addresses": ["198.19.0.3"]},
            late | {"addresses": ["198.19.0.4"]},
        ],
    }


@pytest.fixture
def services() -> Services:
    services = Services(("127.0.0.1", 6443))
    services.services |= {"1": WEB, "2": PODS}
    services.slices |= {"1": slice_of("web"), "2": slice_of("pods")}
    return services


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(A)", "1-1"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$$$$", "$$"), ("a$b", "a$b")],
)
def test_variables_are_expanded(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "64"),
        ("requests.cpu", "1m", "250"),
    ],
)
def test_resources_are_rounded_up_to_the_divisor(resource: str, divisor: str, value: str) -> None:
    resources = {"limits": {"cpu": "1.5", "memory": "64Mi"}, "requests": {"cpu": "250m"}}
    container = {"name": "main", "resources": resources}
    pod = Manifest({"spec": {"containers": [container]}}, "198.19.0.1")
    assert pod.resource({"resource": resource, "divisor": divisor}, container) == value


def test_what_would_be_passed_over_is_named() -> None:
    spec = {
        "hostNetwork": True,
        "initContainers": [{"restartPolicy": "Always"}],
        "containers": [{"lifecycle": {"postStart": {}}, "readinessProbe": {"grpc": {"port": 1}}}],
    }
    found = ["hostNetwork", "sidecar containers", "lifecycle.postStart", "gRPC probes"]
    assert unsupported(spec) == found


def test_endpoints_take_turns_and_must_be_ready(services: Services) -> None:
    port = Port("n", "web", "http")
    first, second = services.endpoints(port), services.endpoints(port)
    assert first == second[::-1]
    assert set(first) == {("198.19.0.2", 8080), ("198.19.0.3", 8080)}
    assert services.listening() == {("198.18.0.9", 80): port}
    services.slices.clear()
    assert services.listening() == {}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("web.n.svc.cluster.local", ["198.18.0.9"]),
        ("WEB.n.svc.cluster.local.", ["198.18.0.9"]),
        ("pods.n.svc.cluster.local", ["198.19.0.2", "198.19.0.3"]),
        ("zero.pods.n.svc.cluster.local", ["198.19.0.2"]),
        ("one.pods.n.svc.cluster.local", None),
        ("web.other.svc.cluster.local", None),
        ("example.com", None),
    ],
)
def test_names_resolve(services: Services, name: str, addresses: list[str] | None) -> None:
    assert services.resolve(name) == addresses


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [("web.n.svc.cluster.local", 1, 0, 1), ("web.n.svc.cluster.local", 28, 0, 0), ("x", 1, 3, 0)],
)
def test_dns_answers(services: Services, name: str, kind: int, code: int, answers: int) -> None:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    question = labels + b"\0" + struct.pack("!HH", kind, 1)
    said = answer(b"ID" + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + question, services)
    assert said[:2] == b"ID"
    flags, _, count = struct.unpack("!HHH", said[2:8])
    assert (flags & 0xF, count) == (code, answers)
    assert said[12 : 12 + len(question)] == question
    assert not answers or said.endswith(bytes([198, 18, 0, 9]))


def test_mounts_stay_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("/run")
    (tmp_path / "var" / "up").symlink_to("../../../run")
    root = str(tmp_path)
    assert inside(root, "/var/run/secrets") == f"{root}/run/secrets"
    assert inside(root, "/var/up/secrets") == f"{root}/run/secrets"
    assert inside(root, "/new/../etc") == f"{root}/etc"
