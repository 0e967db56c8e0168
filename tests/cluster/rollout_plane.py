"""A data plane that is played: pods become ready, routes are taken up, requests are answered.

The API server, its controllers and the rollout controller are real; what a node and a gateway would
do is done here, and the servers' counters follow the weights of the route in force.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import numpy as np
from tests.cluster.rollouts import accept, set_status

from tidemill.adapters.kubernetes.client import HTTP_ROUTES, PODS, KubeClient, Manifest
from tidemill.adapters.kubernetes.owned import REVISION, ROLLOUT
from tidemill.domain.rollout.model import Now, State, Workload
from tidemill.domain.rollout.readings import Counters, Reading
from tidemill.errors import NotFound, TidemillError

LOOK_SECONDS = 0.2
REQUESTS = 2000
"""Requests that arrive between two looks."""


class Plane:
    """Kubelet and gateway of one namespace, whenever `play` is called."""

    def __init__(self, api: KubeClient, namespace: str, route: str) -> None:
        self._api, self._namespace, self._route = api, namespace, route

    def weights(self) -> dict[str, int]:
        """Return the weights of the route in force, by Service."""
        try:
            found = self._api.get(HTTP_ROUTES, self._namespace, self._route)
        except NotFound:
            return {}
        return {
            backend["name"]: backend.get("weight", 1)
            for rule in found["spec"]["rules"]
            for backend in rule.get("backendRefs", [])
        }

    def run_pods(self) -> dict[str, str]:
        """Let every pod be ready; return the model version by revision."""
        versions = {}
        for number, pod in enumerate(self._api.select(PODS, self._namespace, {ROLLOUT: ""})):
            arguments = pod["spec"]["containers"][0]["args"]
            version = arguments[arguments.index("--version") + 1]
            versions[pod["metadata"]["labels"][REVISION]] = version
            if pod.get("status", {}).get("phase") != "Running":
                self._start(pod, f"10.9.1.{number + 1}")
        return versions

    def _start(self, pod: Manifest, address: str) -> None:
        moment = pod["metadata"]["creationTimestamp"]
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": moment}
        status: dict[str, Any] = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": moment,
            "conditions": [ready],
        }
        set_status(self._api, PODS, pod["metadata"]["name"], self._namespace, status)

    def take_up(self) -> bool:
        """Accept the route at its generation; return whether that was new. Raises NotFound."""
        found = self._api.get(HTTP_ROUTES, self._namespace, self._route)
        for parent in found.get("status", {}).get("parents", []):
            for condition in parent["conditions"]:
                if condition["observedGeneration"] == found["metadata"]["generation"]:
                    return False
        accept(self._api, HTTP_ROUTES, self._route, self._namespace)
        return True


class PlayedPlane(Plane):
    """Kubelet, gateway, traffic and evidence of one namespace, at work in a thread."""

    def __init__(self, api: KubeClient, namespace: str, route: str) -> None:
        super().__init__(api, namespace, route)
        self._random = np.random.default_rng(0)
        self._counted: dict[str, Counter[str]] = {}
        self.rates: dict[str, float] = {}
        """Share of errors by model version."""
        self.unanswered = 0
        self._stop = Event()
        self._thread = Thread(target=self._play, daemon=True)

    def __enter__(self) -> PlayedPlane:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:
        """Return what the servers have counted: the port of evidence."""
        counters = {
            revision: Counters(1.0, found["requests"], {"error": found["error"], "slow": 0})
            for revision in workloads
            if (found := self._counted.setdefault(revision, Counter())) is not None
        }
        return Reading(counters, rehearsal="")

    def _play(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                ready = self.run_pods()
                self.take_up()
                self._send(ready)
            except TidemillError:
                continue

    def _send(self, versions: Mapping[str, str]) -> None:
        weights = self.weights()
        total = sum(weights.values())
        if not total:
            return
        shares = [weight / total for weight in weights.values()]
        split = self._random.multinomial(REQUESTS, shares)
        for service, count in zip(weights, split, strict=True):
            revision = service.rpartition("-")[2]
            if count and revision not in versions:
                self.unanswered += int(count)
                continue
            rate = self.rates.get(versions.get(revision, ""), 0.01)
            found = self._counted.setdefault(revision, Counter())
            found["requests"] += int(count)
            found["error"] += int(self._random.binomial(count, rate))
