"""A model's way on the test cluster with nothing played: the images as they are built, the chart,
MLflow, signed bundles, servers, the gateway, clients that never pause.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from tests.bundles import make_bundle
from tests.cluster.access import Cluster
from tests.cluster.endings import story
from tests.cluster.installation import EDGE, Backing, Release, add_images
from tests.cluster.node.images import Image
from tests.cluster.workloads import Workloads
from tests.registering import registered

from tidemill.adapters.kubernetes.owned import REVISION
from tidemill.adapters.signing import Signer
from tidemill.ports.registry import ModelVersion
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
REGISTRY = "images.test"
SETS = ("serve", "control", "registry")
"""The images of what serves a model."""
MODEL = "flight-delay"
PRIVATE_KEY, PUBLIC_KEY = "signing.pem", "configs/signing.pub"
SHORT, LONG = 100, 2500
"""Distances that clients ask about, evenly spread."""
TOO_LONG = 1700
"""Above it the bad model fails, for one request in three: steps of some hundred requests show no
small harm."""
CLIENTS, PAUSE = 4, 0.02
"""Clients, and seconds between an answer and a client's next request."""
PATIENCE = 300.0
"""Seconds until whatever is waited for: a loaded machine is slow."""

STRATEGY = {
    "steps": [
        {"name": "c20", "weight": 2000, "minEvents": 300},
        {"name": "c50", "weight": 5000, "gate": ["high"], "minEvents": 600},
    ],
    "scaleDownDelaySeconds": 2,
    "intervalSeconds": 1,
}
ANALYSIS = {
    "metrics": [
        {"name": "errors", "event": "error", "maxRate": "0.01", "alphaShare": 60},
        {"name": "high", "event": "high", "passRatio": "2", "alphaShare": 20},
    ]
}


def add_built(node: Workloads, built: dict[str, Image], folder: Path) -> dict[str, str]:
    """Let references by digest stand for built images, with a project's configs in them.

    Those hold the public key of whoever signs bundles: a Dockerfile's `COPY configs`.
    """
    configs = {"/project/configs": str(folder / "configs")}
    names = {}
    for name, image in built.items():
        # Other configs are another image: test modules side by side share the node's table.
        digest = sha256(f"{image.root} {folder}".encode()).hexdigest()
        names[name] = f"{REGISTRY}/tidemill/{name}@sha256:{digest}"
        node.add_image(names[name], replace(image, copies=configs))
    return names


def make_project(folder: Path) -> None:
    """Make the project of whoever trains: the reference's configs, a key pair to sign with."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    Signer(folder / PRIVATE_KEY, folder / PUBLIC_KEY).ensure_key()


@dataclass
class Tally:
    """What clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Requests by HTTP status, or by the name of the transport's error."""
    versions: Counter[str] = field(default_factory=Counter)
    """Answers by the version that gave them."""

    @property
    def requests(self) -> int:
        """Number of requests."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Number of requests that were not answered with 200."""
        return self.requests - self.statuses["200"]


class Traffic:
    """Clients in threads; nothing is retried."""

    def __init__(self, url: str) -> None:
        self.tally = Tally()
        self._url = f"{url}/v2/models/{MODEL}/infer"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        number = client
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not self._stop.wait(PAUSE):
                self._count(http, self._body(number))
                number += CLIENTS

    def _count(self, http: httpx.Client, body: dict[str, Any]) -> None:
        try:
            answer = http.post(self._url, json=body)
        except httpx.TransportError as error:
            status, version = type(error).__name__, ""
        else:
            status = str(answer.status_code)
            version = answer.json()["model_version"] if status == "200" else ""
        with self._lock:
            self.tally.statuses[status] += 1
            self.tally.versions[version] += 1

    @staticmethod
    def _body(number: int) -> dict[str, Any]:
        distance = SHORT + number * 997 % (LONG - SHORT)  # a prime: all distances in turn
        columns = (("distance", "FP32", float(distance)), ("carrier", "BYTES", "UA"))
        inputs = [
            {"name": name, "datatype": kind, "shape": [1], "data": [value]}
            for name, kind, value in columns
        ]
        return {"id": f"row-{number}", "inputs": inputs}


class Journey:
    """One release of the chart in a namespace under `restricted`, and the rollout of one model."""

    def __init__(
        self, cluster: Cluster, node: Workloads, built: dict[str, Image], folder: Path
    ) -> None:
        self._cluster, self._node, self._built, self._folder = cluster, node, built, folder
        self._images: dict[str, str] = {}
        self._made: list[str] = []
        self._told = 0

    @contextmanager
    def running(self) -> Iterator[Journey]:
        """Install everything and wait until it is ready; remove it afterwards."""
        make_project(self._folder)
        self._images = add_built(self._node, self._built, self._folder)
        add_images(self._node, self._folder / "machine")  # what the backing services run on
        try:
            self._install()
            yield self
            self.project.store.dispose()
        finally:
            for namespace in reversed(self._made):
                self._cluster.kubectl("delete", "namespace", namespace, "--wait=false")

    def _install(self) -> None:
        backing = Backing.start(self._cluster, self._namespace())
        self.namespace = self._namespace(enforce="restricted")
        backing.secret(self._cluster, self.namespace)
        self.release = Release(self._cluster, self.namespace)
        self.release.upgrade(self._values(backing))
        self._apply(EDGE)
        self._wait("gateway/edge", "condition=Programmed")
        address = self._read("gateway/edge", "{.status.addresses[0].value}")
        self.url = f"http://{address}:8080"
        self.project = self._open(backing)

    def _namespace(self, **labels: str) -> str:
        self._made.append(self._cluster.namespace(**labels))
        return self._made[-1]

    def _values(self, backing: Backing) -> dict[str, Any]:
        images = {
            name: dict(zip(("repository", "digest"), reference.split("@"), strict=True))
            for name, reference in self._images.items()
        }
        own = {
            "registry": backing.settings["registry"] | {"verify_key": PUBLIC_KEY},
            "serving": {"auth": {"allow_anonymous": True}},
        }
        return {
            "images": images,
            "settings": backing.settings | own,
            "secretName": "credentials",
            # Host names of its API: clients outside of the cluster know its address alone.
            "mlflow": {"persistence": {"enabled": False}, "hosts": ["198.1*"]},
        }

    def _open(self, backing: Backing) -> Project:
        """Open the project of whoever trains, outside of the cluster."""
        database = self._service("database", backing.namespace)
        mlflow = self._service("tidemill-mlflow", self.namespace)
        settings = (
            f"registry.uri=http://{mlflow}:5000",
            f"registry.signing_key={PRIVATE_KEY}",
            f"registry.verify_key={PUBLIC_KEY}",
            f"storage.database=postgresql+psycopg://tidemill@{database}:5432/postgres",
        )
        return Project.load(self._folder, assignments=settings)

    def _service(self, name: str, namespace: str) -> str:
        read = ("get", "service", name, "--output=jsonpath={.spec.clusterIP}")
        return self._cluster.kubectl(*read, "--namespace", namespace)

    def register(self, scale: float, longest: int | None = None) -> ModelVersion:
        """Sign and register the next version of the model, which a gate let pass."""
        folder = self._folder / f"bundle-{scale}-{longest}"
        return registered(self.project, make_bundle(folder, MODEL, scale, longest), folder.name)

    def want(self, version: ModelVersion) -> None:
        """Say in the ModelRollout that this version is to serve all traffic."""
        model = {
            "name": MODEL,
            "version": version.version,
            "digest": version.digest,
            "threshold": "0.2",
            "scoreTails": {"low": "0.65", "high": "0.85"},
        }
        runtime = {
            "image": self._images["serve"],
            "fetchImage": self._images["registry"],
            "replicas": 2,
            "configMap": {"name": "tidemill-settings"},
            "secret": {"name": "credentials"},
        }
        self._apply(
            {
                "apiVersion": "serving.tidemill.dev/v1alpha1",
                "kind": "ModelRollout",
                "metadata": {"name": MODEL},
                "spec": {
                    "model": model,
                    "runtime": runtime,
                    "traffic": {"parentRefs": [{"name": "edge"}], "settleSeconds": 2},
                    "strategy": STRATEGY,
                    "analysis": {"inline": ANALYSIS},
                },
            }
        )

    @property
    def status(self) -> dict[str, Any]:
        """Return the rollout's status."""
        found = json.loads(self.release.kubectl("get", "modelrollout", MODEL, "--output=json"))
        return found.get("status", {})  # type: ignore[no-any-return]

    def until_at_rest(
        self, attempts: int, told: Callable[[dict[str, Any]], object] = lambda _: None
    ) -> None:
        """Wait until so many attempts have ended, and all is calm; `told` sees each decision."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = self.status
            for decision in status.get("decisions", []):
                if decision["seq"] > self._told:
                    self._told = decision["seq"]
                    told(decision)
            calm = status.get("phase") == "stable" and "attempt" not in status
            if calm and len(status.get("history", [])) == attempts:
                return
            time.sleep(0.5)
        pods = story(self.release.access, self.release.namespace)
        raise AssertionError(f"never at rest: {json.dumps(self.status, indent=1)}\n{pods}")

    def until_promoted(self) -> None:
        """Wait until what is wanted has all requests."""
        how = ("--for=condition=Promoted", f"--timeout={PATIENCE:g}s")
        self.release.kubectl("wait", f"mro/{MODEL}", *how)

    def servers(self) -> set[str]:
        """Return the names of the pods that serve the stable revision."""
        revision = self.status["stable"]["revision"]
        chosen = (f"--selector={REVISION}={revision}", "--output=name")
        return set(self.release.kubectl("get", "pods", *chosen).split())

    def _apply(self, body: dict[str, Any]) -> None:
        self.release.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))

    def _wait(self, what: str, condition: str) -> None:
        self.release.kubectl("wait", what, f"--for={condition}", f"--timeout={PATIENCE:g}s")

    def _read(self, what: str, path: str) -> str:
        return self.release.kubectl("get", what, f"--output=jsonpath={path}")
