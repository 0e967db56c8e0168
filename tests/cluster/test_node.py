"""Pods run: what Kubernetes promises of them, by real processes behind a real control plane."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster.access import Cluster
from tests.cluster.node.images import Image
from tests.cluster.workloads import Workloads

PATIENCE = 60.0


class Namespace:
    """Does in one namespace what the tests need."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.name, stdin=stdin)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output", "json"))

    def run(self, name: str, *command: str, kind: str = "Pod", **spec: Any) -> None:
        container = {"name": "main", "image": "test/python", "command": list(command)}
        container |= spec.pop("container", {})
        pod = {"restartPolicy": "Never", "containers": [container], **spec}
        versions = {"Pod": "v1", "Job": "batch/v1"}
        job = {"backoffLimit": 0, "template": {"spec": pod}}
        body = {
            "apiVersion": versions[kind],
            "kind": kind,
            "metadata": {"name": name},
            "spec": pod if kind == "Pod" else job,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def wait(self, what: str, condition: str) -> None:
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={PATIENCE:g}s")

    def address(self, service: str) -> str:
        return str(self.get("service", service)["spec"]["clusterIP"])

    def endpoints(self, service: str) -> set[str]:
        found = self.get("endpointslices", f"--selector=kubernetes.io/service-name={service}")
        return {
            address
            for part in found["items"]
            for one in part.get("endpoints") or []
            if one["conditions"]["ready"]
            for address in one["addresses"]
        }


@pytest.fixture(scope="module")
def space(cluster: Cluster, node: Workloads) -> Iterator[Namespace]:
    """A namespace of this module, on a node that runs this Python as `test/python`."""
    node.add_image("test/python", Image(entrypoint=[sys.executable]))
    node.add_image("missing.example/*", None)
    name = cluster.namespace()
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def web(space: Namespace) -> Namespace:
    """The namespace with the web server in it, ready."""
    space.kubectl("apply", "-f", str(Path(__file__).with_name("web.yaml")))
    space.kubectl("rollout", "status", "deployment/web", f"--timeout={PATIENCE:g}s")
    until(lambda: len(space.endpoints("web")) == 2)
    return space


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


def ask(address: str) -> list[str]:
    answer = httpx.get(f"http://{address}/", trust_env=False, timeout=10)
    return answer.raise_for_status().text.split()


def test_a_deployment_serves_behind_its_service(web: Namespace) -> None:
    pods = {
        pod["metadata"]["name"]: pod["status"]["podIP"]
        for pod in web.get("pods", "--selector=app=web")["items"]
    }
    address = web.address("web")
    answers = [ask(address) for _ in range(4)]
    assert {(name, ip) for _, name, ip, *_ in answers} == set(pods.items()), "both in turn"
    assert answers[0][0] == "v1"
    assert answers[0][3:] == ["s3cret", "hello", "prepared"]


def test_a_pod_finds_services_by_name_and_is_refused_by_rbac(web: Namespace) -> None:
    script = """
import os, pathlib, socket, ssl, urllib.error, urllib.request
from pathlib import Path
print("uid", os.getuid())
print("web", urllib.request.urlopen("http://web/").read().decode())
print("pods", sorted({one[4][0] for one in socket.getaddrinfo("web-pods", 80)}))
try:
    socket.getaddrinfo("nothing", 80)
except socket.gaierror as error:
    print("unknown", error.errno == socket.EAI_NONAME)
account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
url = f"https://kubernetes.default.svc/api/v1/namespaces/{(account / 'namespace').read_text()}"
token = {"Authorization": "Bearer " + (account / "token").read_text()}
trust = ssl.create_default_context(cafile=account / "ca.crt")
for kind in ("configmaps", "secrets"):
    request = urllib.request.Request(f"{url}/{kind}", headers=token)
    try:
        print(kind, urllib.request.urlopen(request, context=trust).status)
    except urllib.error.HTTPError as error:
        print(kind, error.status)
"""
    web.cluster.user("caller", web.name)
    web.kubectl("create", "role", "caller", "--verb=list", "--resource=configmaps")
    bind = ("--role=caller", f"--serviceaccount={web.name}:caller")
    web.kubectl("create", "rolebinding", "caller", *bind)
    python = {"args": ["-c", script], "command": None}
    user = {"runAsUser": 65532}
    web.run("call", kind="Job", container=python, securityContext=user, serviceAccountName="caller")
    web.wait("job/call", "condition=complete")
    said = dict(line.split(" ", 1) for line in web.kubectl("logs", "job/call").splitlines())
    assert said["uid"] == "65532"
    assert said["web"].startswith("v1 web-")
    assert said["pods"] == str(sorted(web.endpoints("web")))
    assert said["unknown"] == "True"
    assert (said["configmaps"], said["secrets"]) == ("200", "403")


def test_a_failing_liveness_probe_restarts_the_container(space: Namespace) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1}
    script = "echo up; sleep 1; touch /tmp/ill; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    space.run(
        "ill", "sh", "-c", script, restartPolicy="Always",
        container={"livenessProbe": probe | {"failureThreshold": 1}},
    )  # fmt: skip
    space.wait("pod/ill", "jsonpath={.status.containerStatuses[0].restartCount}=1")
    assert space.kubectl("logs", "ill", "--previous") == "up\n"
    space.kubectl("delete", "pod", "ill", "--wait=false")


def test_a_job_is_tried_again_and_keeps_its_last_words(space: Namespace) -> None:
    script = """
echo run; if [ -e /s/tried ]; then echo well > /dev/termination-log; exit 0; fi
touch /s/tried; echo boom > /dev/termination-log; exit 3
"""
    space.run(
        "flaky", "sh", "-c", script, kind="Job", restartPolicy="OnFailure",
        container={"volumeMounts": [{"name": "s", "mountPath": "/s"}]},
        volumes=[{"name": "s", "emptyDir": {}}],
    )  # fmt: skip
    space.wait("job/flaky", "condition=complete")
    pod = space.get("pods", "--selector=job-name=flaky")["items"][0]
    status = pod["status"]["containerStatuses"][0]
    before, after = status["lastState"]["terminated"], status["state"]["terminated"]
    assert (before["exitCode"], before["message"]) == (3, "boom\n")
    assert (after["exitCode"], after["message"], status["restartCount"]) == (0, "well\n", 1)


def test_a_restricted_container_really_is(space: Namespace) -> None:
    script = """
id -u; id -g; grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status
touch /etc/written 2>&1 || echo refused; touch /s/written && echo scratch; hostname; echo $$$$
"""
    security = {
        "runAsUser": 65532, "runAsGroup": 65531, "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    mount = [{"name": "s", "mountPath": "/s"}]
    space.run(
        "tight", "sh", "-c", script, container={"securityContext": security, "volumeMounts": mount},
        volumes=[{"name": "s", "emptyDir": {}}],
    )  # fmt: skip
    space.wait("pod/tight", "jsonpath={.status.phase}=Succeeded")
    said = space.kubectl("logs", "tight")
    assert said.split()[:2] == ["65532", "65531"]
    assert said.count("0000000000000000") == 2, "neither effective nor bounding capabilities"
    assert "NoNewPrivs:\t1" in said
    assert "Read-only file system" in said
    assert said.split()[-4:] == ["refused", "scratch", "tight", "1"]


def test_an_image_is_all_that_its_container_sees(
    space: Namespace, node: Workloads, programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(programs / "kubeconform", tmp_path / "bin")  # linked statically
    image = Image(root=str(tmp_path), entrypoint=["/bin/kubeconform"], cmd=["-v"], user=65532)
    node.add_image("test/kubeconform:*", image)
    security = {"readOnlyRootFilesystem": True, "runAsNonRoot": True}
    inside = {"image": "test/kubeconform:1", "command": None, "securityContext": security}
    space.run("own-root", container=inside)
    space.run("no-shell", container=inside | {"command": ["/bin/sh", "-c", "true"]})
    space.wait("pod/own-root", "jsonpath={.status.phase}=Succeeded")
    assert space.kubectl("logs", "own-root") == "development\n"
    space.wait("pod/no-shell", "jsonpath={.status.phase}=Failed")


def test_what_cannot_start_says_why(space: Namespace) -> None:
    space.run("absent", container={"image": "missing.example/x:1"})
    space.run("typo", "no-such-program")
    space.run("network", "true", hostNetwork=True)
    variable = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a"}}}
    space.run("keyless", "true", container={"env": [variable]})
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    space.wait("pod/absent", f"{reason}=ErrImagePull")
    space.wait("pod/keyless", f"{reason}=CreateContainerConfigError")
    space.wait("pod/typo", "jsonpath={.status.phase}=Failed")
    space.wait("pod/network", "jsonpath={.status.reason}=UnsupportedByTestNode")
    ended = space.get("pod", "typo")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "StartError"
    assert "no-such-program: [Errno 2]" in ended["message"]


def test_sigterm_then_the_grace_period_then_sigkill(space: Namespace) -> None:
    script = "trap 'echo got SIGTERM' TERM; echo up; while :; do sleep 0.1; done"
    space.run("deaf", "sh", "-c", script, terminationGracePeriodSeconds=2)
    space.wait("pod/deaf", "condition=Ready")
    with ThreadPoolExecutor() as pool:
        logs = pool.submit(space.kubectl, "logs", "--follow", "deaf")
        until(lambda: "up" in space.kubectl("logs", "deaf"))
        space.kubectl("delete", "pod", "deaf")
        assert logs.result() == "up\ngot SIGTERM\n"


def test_a_rolling_update_fails_no_request(web: Namespace) -> None:
    address, seen, stop = web.address("web"), [ask(web.address("web"))[0]], threading.Event()

    def load() -> None:
        while not stop.is_set():
            seen.append(ask(address)[0])

    with ThreadPoolExecutor() as pool:
        work = [pool.submit(load) for _ in range(2)]
        try:
            web.kubectl("set", "env", "deployment/web", "VERSION=v2")
            web.kubectl("rollout", "status", "deployment/web", f"--timeout={PATIENCE:g}s")
            until(lambda: seen[-5:] == ["v2"] * 5)
        finally:
            stop.set()
        for one in work:
            one.result()  # raises what a request raised
    assert seen.index("v2") > 0


def test_a_deleted_pod_leaves_nothing_behind(space: Namespace) -> None:
    space.run("brief", "sleep", "1000", container={"env": [{"name": "MARK", "value": space.name}]})
    space.wait("pod/brief", "condition=Ready")
    assert _processes_with(f"MARK={space.name}")
    space.kubectl("delete", "pod", "brief", "--grace-period=1")
    until(lambda: not _processes_with(f"MARK={space.name}"))


def _processes_with(variable: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(path)
        except OSError:
            continue
    return found
