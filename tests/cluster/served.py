"""A cluster on which nothing of a rollout is played: bundles on a volume, servers in pods, a
Gateway, clients, and a controller as a thread of the test.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import httpx
from tests.bundles import make_bundle
from tests.cluster.node.images import Image
from tests.cluster.rollouts import IMAGE, ROOT, client, eventually, install, manifest
from tests.cluster.workloads import Workloads
from tests.serving import FULL
from tests.shadowed import QUIET, Connect, asking, over_http

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.kubernetes.client import ROLLOUTS, SERVICES, KubeClient, Manifest
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.signing import Signer
from tidemill.bundle import read_profile, verify
from tidemill.domain.scores import tails
from tidemill.ports.rollout import EvidenceSource
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.rollout import FakeReleases
from tidemill.wiring.kubernetes import RolloutFleet

NAME = "flight-delay"
PATIENCE = 240.0
INFER = f"/v2/models/{NAME}/infer"
STATE = "/project/.tidemill"
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TIDEMILL_SERVING__VERIFY": "false",
    "TIDEMILL_SERVING__AUTH__ALLOW_ANONYMOUS": "true",
    "TIDEMILL_STORAGE__STATE": STATE,
    "TIDEMILL_STORAGE__OBJECTS": f"{STATE}/objects",
}
SLOW = {"TIDEMILL_SERVING__SLOW_MS": "0.0001"}
"""Every request is slow in both arms: a hundred of them show that the canary is no slower."""
RUNTIME = {
    "image": IMAGE,
    "replicas": 1,
    "minReadySeconds": 0,
    "bundles": {"claimName": "bundles"},
    "configMap": {"name": "tidemill"},
}


class World:
    """A namespace with bundles on a volume, a Gateway, a controller and clients."""

    def __init__(
        self,
        cluster: Any,
        api: KubeClient,
        namespace: str,
        folder: Path,
        settings: dict[str, str],
        spec: dict[str, Any],
    ) -> None:
        """`settings` are the servers' own beside SETTINGS, `spec` what every resource has."""
        self._settings, self._spec = SETTINGS | settings, spec
        self.cluster, self.api, self.namespace, self.folder = cluster, api, namespace, folder
        self.signer = Signer(folder / "keys/signing.pem", folder / "keys/signing.pub")
        self.answered = Counter[str]()
        """Of clients, by what answered: a version, or `failed`."""
        self._prepare()

    def _prepare(self) -> None:
        (self.folder / "models/bundles").mkdir(parents=True)
        capacity = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"]}
        volume = {"storageClassName": "", "hostPath": {"path": str(self.folder / "models")}}
        claim = {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": self.namespace,
            "resources": {"requests": {"storage": "1Gi"}},
        }
        listener = {"name": "http", "protocol": "HTTP", "port": 8080}
        spec = {"gatewayClassName": "tidemill-test", "listeners": [listener]}
        self.apply("v1", "PersistentVolume", self.namespace, {"spec": capacity | volume})
        self.apply("v1", "PersistentVolumeClaim", "bundles", {"spec": claim})
        self.apply("v1", "ConfigMap", "tidemill", {"data": self._settings})
        self.apply("gateway.networking.k8s.io/v1", "Gateway", "gateway", {"spec": spec})
        ready = ("wait", "gateway/gateway", "--for=condition=Programmed", "--timeout=300s")
        self.cluster.kubectl(*ready, "-n", self.namespace)
        address = "--output=jsonpath={.status.addresses[0].value}"
        host = self.cluster.kubectl("get", "gateway/gateway", address, "-n", self.namespace)
        self.edge = f"{host}:8080"

    def apply(self, api: str, kind: str, name: str, rest: dict[str, Any]) -> None:
        made = {"apiVersion": api, "kind": kind, "metadata": {"name": name}} | rest
        stdin = json.dumps(made)
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=stdin)

    def release(self, version: str, bias: float) -> dict[str, Any]:
        """Put a bundle on the volume; return the resource's `model`."""
        bundle = write_bundle(self.folder / version, manifest=MANIFEST, bias=bias)
        return self.place(bundle, self.sign(bundle, version))

    def make(self, version: str, longest: int | None = None) -> dict[str, Any]:
        """Put a bundle on the volume whose model fails above `longest`, see `tests.bundles`."""
        scale = int(version) / 1000
        bundle = make_bundle(self.folder / version, NAME, scale, longest, MANIFEST.features)
        return self.place(bundle, self.sign(bundle, version))

    def place(self, bundle: Path, model: dict[str, Any]) -> dict[str, Any]:
        """Put a bundle on the volume where the servers of `model` look for it."""
        bundle.rename(self.folder / "models/bundles" / model["digest"][7:17])
        return model

    def sign(self, bundle: Path, version: str) -> dict[str, Any]:
        """Sign a bundle; return the resource's `model`."""
        self.signer.sign(bundle)
        digest = verify(bundle, self.folder / "keys/signing.pub")
        low, high = tails(read_profile(bundle).score)
        return {
            "name": NAME,
            "version": version,
            "digest": digest,
            "threshold": str(MANIFEST.prior),
            "scoreTails": {"low": f"{low:g}", "high": f"{high:g}"},
        }

    def want(self, model: dict[str, Any], **changes: Any) -> None:
        wanted = manifest(
            self.namespace,
            model=model,
            runtime=RUNTIME,
            traffic__settleSeconds=1,
            strategy__intervalSeconds=1,
            strategy__scaleDownDelaySeconds=3,  # a busy gateway's workers are late
            **(self._spec | changes),
        )
        stdin = json.dumps(wanted)
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=stdin)

    def status(self) -> Manifest:
        found = self.api.get(ROLLOUTS, self.namespace, NAME)
        return dict(found.get("status", {}))

    def wait(self, condition: Any) -> Manifest:
        try:
            return eventually(lambda: condition(found := self.status()) and found, PATIENCE)
        except AssertionError:
            keys = ("phase", "conditions", "decisions", "metrics", "paired", "lost")
            raise AssertionError({k: self.status().get(k) for k in keys}) from None

    def wait_for_deployment(self) -> None:
        """Wait until the first model serves: `phase` is the decision, the condition its effect."""
        self.wait(promoted)

    def connect(self) -> Connect:
        """Return how clients reach the gateway."""
        return over_http(f"http://{self.edge}{INFER}")

    @contextmanager
    def clients(self, rows: Sequence[dict[str, Any]] = (FULL, QUIET)) -> Iterator[None]:
        """Ask for the `rows` all the while."""
        with asking(self.connect(), 2, rows) as self.answered:
            yield


def promoted(status: Manifest) -> bool:
    """Return whether what is wanted has all requests."""
    found = {one["type"]: one["status"] for one in status.get("conditions", [])}
    return found.get("Promoted") == "True"


class ClusterNames(httpx.HTTPTransport):
    """Finds a Service's address, as the cluster's DNS does for a controller in a pod."""

    def __init__(self, api: KubeClient) -> None:
        super().__init__()
        self._api = api

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        name, _, rest = request.url.host.partition(".")
        if rest.endswith(".svc"):
            found = self._api.get(SERVICES, rest.removesuffix(".svc"), name)
            request.url = request.url.copy_with(host=found["spec"]["clusterIP"])
        return super().handle_request(request)


class Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


def scraped(_: str, asking: httpx.Client) -> ServerEvidence:
    """Evidence that the controller scrapes from the pods itself."""
    return ServerEvidence(Outcomes(MemoryObjects()), ScrapedCounters(asking), asking)


W = TypeVar("W", bound=World)


@contextmanager
def checkout() -> Iterator[Path]:
    """Copy the project where a pod sees it: its own /tmp hides the machine's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("src", "configs"):
            shutil.copytree(ROOT / part, folder / part)
        yield folder


@contextmanager
def served_world(
    cluster: Any,
    node: Workloads,
    namespace: str,
    folder: Path,
    evidence: Callable[[str, httpx.Client], EvidenceSource],
    settings: dict[str, str],
    made: type[W],
    **spec: Any,
) -> Iterator[W]:
    """Run a controller whose `evidence`, of a Prometheus' URL, asks with the client it is given."""
    install(cluster)
    stop = Event()
    with (
        checkout() as project,
        client(cluster) as api,
        httpx.Client(timeout=2.0, transport=ClusterNames(api)) as to_pods,
    ):
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        env = {"PATH": path, "PYTHONPATH": str(project / "src")}
        node.add_image(IMAGE, Image(env=env, workdir=str(project)))
        world = made(cluster, api, namespace, folder, settings, spec)
        fleet = RolloutFleet(
            *(api, namespace, namespace, ("127.0.0.1", 0), Now()),
            lambda url: evidence(url, to_pods),
            FakeReleases(),
            "real-test",
        )
        controller = Thread(target=fleet.run, args=(stop,))
        controller.start()
        try:
            yield world
        finally:
            stop.set()
            controller.join()
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")
