"""Shared by the tests of Argo Rollouts and Flagger: model servers in pods, traffic, a judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster import build, crds
from tests.cluster.access import Cluster
from tests.cluster.node.images import Image
from tests.cluster.processes import Processes
from tests.cluster.rollouts import ROOT, bind
from tests.cluster.workloads import Workloads
from tests.refusal import refuse
from tests.serving import FULL, TIDEMILL, Project, body

import tidemill

IMAGE = "test/tidemill"
RULES = ROOT / "charts/tidemill/files/rollout-judge-rules.yaml"
SOURCE = str(Path(tidemill.__file__).parents[1])
PATIENCE = 240.0
SLOW, FAST = "0.0001", "60000"
"""Limits in milliseconds that every request misses, or keeps."""


def programs(name: str, program: str) -> Path:
    """Return a controller built from tests/cluster/NAME/go.mod; skips or fails where it cannot."""
    try:
        return build.build(build.MODULE / name, (program,)) / program
    except build.CannotBuild as error:
        refuse(f"NO TESTS OF {name.upper()}", error)


def module(path: str, pinned: Path = Path("/")) -> Path:
    """Return the folder of a Go module's source, out of Go's own cache.

    `path` says its version, unless the go.mod of the folder `pinned` does.
    """
    try:
        return crds.module(path, pinned)
    except build.CannotBuild as error:
        refuse("NO SCHEMA TO CHECK AGAINST", error)


def until(look: Callable[[], Any], what: str) -> Any:
    """Look until there is something, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    pytest.fail(f"{what} did not happen in {PATIENCE:.0f} s")


def define(cluster: Cluster, files: Iterable[Path]) -> None:
    """Install definitions of custom resources and wait until they are in force."""
    named = [part for file in files for part in ("-f", str(file))]
    cluster.kubectl("apply", "--server-side", *named)

    def established() -> bool:  # `kubectl wait` fails where a definition has no conditions yet
        found = json.loads(cluster.kubectl("get", "-o", "json", *named))["items"]
        said = [one["status"].get("conditions") or [] for one in found]
        return all(
            {"Established": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()
            for conditions in said
        )

    until(established, "the definitions")


class Delivery:
    """A namespace of model servers, and whoever delivers them."""

    def __init__(self, cluster: Cluster, node: Workloads, project: Project, namespace: str) -> None:
        node.add_image(IMAGE, Image(entrypoint=[sys.executable, str(TIDEMILL)]))
        self.cluster, self.project, self.namespace = cluster, project, namespace

    def apply(self, *manifests: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.namespace, stdin=stdin)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output", "json"))

    def pod(self, app: str, slow_ms: str) -> dict[str, Any]:
        """Return a pod template: a server of the bundle to which every request is slow or none."""
        folder = str(self.project.root.parent)
        arguments = ["--project", str(self.project.root), "serve", "--bundle"]
        arguments += [str(self.project.bundle), "--version", "7"]
        arguments += ["--host", "0.0.0.0", "--port", "8080"]
        settings = {
            "TIDEMILL_SERVING__SLOW_MS": slow_ms,
            "TIDEMILL_SERVING__AUTH__ALLOW_ANONYMOUS": "true",
            "TIDEMILL_CLOCK": str(self.project.root / "clock.json"),
            "PYTHONPATH": SOURCE,
            "OMP_NUM_THREADS": "1",
        }
        container = {
            "name": "server",
            "image": IMAGE,
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in settings.items()],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {
                "httpGet": {"path": "/v2/health/ready", "port": "http"},
                "periodSeconds": 1,
            },
            "volumeMounts": [{"name": "project", "mountPath": folder}],
        }
        return {
            "metadata": {"labels": {"app": app}},
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [container],
                "volumes": [{"name": "project", "hostPath": {"path": folder}}],
            },
        }

    def service(self, name: str, app: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": app},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        }

    def grant(self, rules: list[dict[str, Any]]) -> Path:
        """Return the kubeconfig of the judge's account, which may do exactly this."""
        bind(self.cluster, self.namespace, "judge", rules)
        return self.cluster.user("judge", self.namespace).kubeconfig

    @contextmanager
    def judge(self, **environment: str) -> Iterator[str]:
        """Run the judge's command under its role alone and yield its URL."""
        rules = yaml.safe_load(RULES.read_text())["namespace"]
        command = [str(TIDEMILL), "--project", str(self.project.root)]
        command += ["--set", "rollout.analysis.metrics=[{name: slow, event: slow, pass_ratio: 2}]"]
        command += ["--set", "rollout.settle_seconds=1", "rollout", "judge", "--port", "0"]
        env = {**os.environ, "KUBECONFIG": str(self.grant(rules)), **environment}
        log = self.project.root.parent / f"judge-{self.namespace}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=output, text=True, env=env
            )
        assert process.stdout
        reading = threading.Thread(target=lambda: None)
        try:
            url = process.stdout.readline().split()[-1]
            with log.open("a") as output:
                reading = threading.Thread(target=lambda: output.writelines(process.stdout or []))
                reading.start()
                yield url
        finally:
            process.terminate()
            process.wait(30)
            reading.join()
            process.stdout.close()

    @contextmanager
    def traffic(self, url: str, host: str = "") -> Iterator[list[int]]:
        """Send requests, a connection each, and yield the statuses so far; 0 is no answer."""
        stop, statuses = threading.Event(), []

        def send() -> None:
            limits = httpx.Limits(max_keepalive_connections=0)
            headers = {"host": host} if host else {}
            target = f"{url}/v2/models/flight-delay/infer"
            with httpx.Client(
                trust_env=False, limits=limits, timeout=10, headers=headers
            ) as client:
                while not stop.wait(0.02):
                    try:
                        statuses.append(client.post(target, json=body(FULL)).status_code)
                    except httpx.HTTPError:
                        statuses.append(0)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield statuses
        finally:
            stop.set()
            thread.join()

    def address(self, service: str) -> str:
        return f"http://{self.get('service', service)['spec']['clusterIP']}"


@contextmanager
def running(folder: Path, name: str, *argv: str | Path) -> Iterator[Processes]:
    """Run a controller as a process of this machine; its log is in `folder`."""
    processes = Processes(folder)
    processes.start(name, list(argv))
    try:
        yield processes
        processes.check()
    finally:
        processes.stop()
