"""A shadow step on a cluster, nothing of it played: Envoy mirrors what clients ask through a
Gateway, real servers in pods answer, the controller reads both arms' answers from the pods.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from tests.cluster.node.images import Image
from tests.cluster.rollouts import IMAGE, ROOT, client, eventually, install, manifest
from tests.shadowed import asking

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.kubernetes.client import ROLLOUTS, SERVICES, KubeClient, Manifest
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.signing import Signer
from tidemill.bundle import read_profile, verify
from tidemill.domain.scores import tails
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.rollout import FakeReleases
from tidemill.wiring.kubernetes import RolloutFleet

pytestmark = pytest.mark.slow

NAME = "flight-delay"
INFER = f"/v2/models/{NAME}/infer"
STATE = "/project/.tidemill"
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TIDEMILL_SERVING__VERIFY": "false",
    "TIDEMILL_SERVING__AUTH__ALLOW_ANONYMOUS": "true",
    "TIDEMILL_STORAGE__STATE": STATE,
    "TIDEMILL_STORAGE__OBJECTS": f"{STATE}/objects",
}
RUNTIME = {
    "image": IMAGE,
    "replicas": 1,
    "minReadySeconds": 0,
    "bundles": {"claimName": "bundles"},
    "configMap": {"name": "tidemill"},
}
STEPS = [
    {"name": "shadow", "shadow": {"percent": 50}, "gate": ["disagreement"], "minEvents": 100},
    {"name": "c50", "weight": 5000, "minEvents": 50},
]
METRICS = [{"name": "errors", "event": "error", "maxRate": "0.05"}]
PAIRED = [{"name": "disagreement", "event": "flip", "maxRate": "0.05", "alphaShare": 20}]


class World:
    """A namespace with bundles on a volume, a Gateway, a controller and clients."""

    def __init__(self, cluster: Any, api: KubeClient, namespace: str, folder: Path) -> None:
        self.cluster, self.api, self.namespace, self.folder = cluster, api, namespace, folder
        self.signer = Signer(folder / "keys/signing.pem", folder / "keys/signing.pub")
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
        self.apply("v1", "ConfigMap", "tidemill", {"data": SETTINGS})
        self.apply("gateway.networking.k8s.io/v1", "Gateway", "gateway", {"spec": spec})
        ready = ("wait", "gateway/gateway", "--for=condition=Programmed", "--timeout=60s")
        self.cluster.kubectl(*ready, "-n", self.namespace)
        address = "--output=jsonpath={.status.addresses[0].value}"
        host = self.cluster.kubectl("get", "gateway/gateway", address, "-n", self.namespace)
        self.url = f"http://{host}:8080{INFER}"

    def apply(self, api: str, kind: str, name: str, rest: dict[str, Any]) -> None:
        made = {"apiVersion": api, "kind": kind, "metadata": {"name": name}} | rest
        stdin = json.dumps(made)
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=stdin)

    def release(self, version: str, bias: float) -> dict[str, Any]:
        """Put a bundle on the volume; return the resource's `model`."""
        bundle = write_bundle(self.folder / version, manifest=MANIFEST, bias=bias)
        self.signer.sign(bundle)
        digest = verify(bundle, self.folder / "keys/signing.pub")
        low, high = tails(read_profile(bundle).score)
        bundle.rename(self.folder / "models/bundles" / digest[7:17])
        return {
            "name": NAME,
            "version": version,
            "digest": digest,
            "threshold": str(MANIFEST.prior),
            "scoreTails": {"low": f"{low:g}", "high": f"{high:g}"},
        }

    def want(self, model: dict[str, Any]) -> None:
        wanted = manifest(
            self.namespace,
            model=model,
            runtime=RUNTIME,
            traffic__settleSeconds=1,
            strategy__steps=STEPS,
            strategy__intervalSeconds=1,
            strategy__scaleDownDelaySeconds=1,
            analysis__inline={"metrics": METRICS, "paired": PAIRED},
        )
        stdin = json.dumps(wanted)
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=stdin)

    def status(self) -> Manifest:
        found = self.api.get(ROLLOUTS, self.namespace, NAME)
        return dict(found.get("status", {}))

    def wait(self, condition: Any) -> Manifest:
        try:
            return eventually(lambda: condition(found := self.status()) and found, 120)
        except AssertionError:
            keys = ("phase", "conditions", "decisions", "paired", "lost")
            raise AssertionError({k: self.status().get(k) for k in keys}) from None


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


@pytest.fixture
def checkout() -> Iterator[Path]:
    """The project where a pod sees it: its own /tmp hides the machine's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("src", "configs"):
            shutil.copytree(ROOT / part, folder / part)
        yield folder


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path, checkout) -> Iterator[World]:
    install(cluster)
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    settings = path | {"PYTHONPATH": str(checkout / "src")}
    node.add_image(IMAGE, Image(env=settings, workdir=str(checkout)))
    stop = Event()
    with (
        client(cluster) as api,
        httpx.Client(timeout=2.0, transport=ClusterNames(api)) as asking,
    ):
        made = World(cluster, api, namespace, tmp_path)
        fleet = RolloutFleet(
            *(api, namespace, namespace, ("127.0.0.1", 0), Now()),
            lambda _: ServerEvidence(Outcomes(MemoryObjects()), ScrapedCounters(asking), asking),
            FakeReleases(),
            "shadow-test",
        )
        controller = Thread(target=fleet.run, args=(stop,))
        controller.start()
        yield made
        stop.set()
        controller.join()
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")


def test_a_model_that_agrees_goes_on_and_one_that_does_not_never_meets_a_client(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good, same, bad = (world.release(v, b) for v, b in (("1", -1.0), ("2", -1.001), ("3", -9.0)))
    world.want(good)
    world.wait(lambda s: s.get("phase") == "stable")
    with asking(world.url, 2) as answered:
        world.want(same)
        shadowing = world.wait(lambda s: s.get("paired"))
        assert (shadowing["weight"], shadowing["mirror"]) == (0, 5000)
        assert answered["2"] == 0
        promoted = world.wait(lambda s: s.get("phase") == "stable" and s.get("history"))
        assert promoted["history"][0]["outcome"] == "promoted"

        world.want(bad)
        done = world.wait(lambda s: s.get("phase") == "stable" and len(s.get("history", [])) == 2)
    assert done["history"][0]["outcome"] == "rolled_back"
    assert "harm in disagreement" in done["history"][0]["reason"]
    assert answered["failed"] == answered["3"] == 0
    assert answered["2"] > 0
    with capsys.disabled():
        print(f" {answered.total()} requests, {answered['failed']} failed")
