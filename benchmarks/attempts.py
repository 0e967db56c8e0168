"""Two hundred rollouts with an attempt in flight each, on a real API server.

Scenario S21: one request a second to each, the default of ten seconds between two looks. API
server, controller manager and the whole controller are real; pods become ready, routes are taken up
and requests are counted by this program. Every fifth canary is harmful and has to be rolled back,
the others have to be promoted. Needs what the tests in `tests/cluster` need.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.rollout_plane import (
    await_phase,
    control_plane,
    fleet_process,
    look_seconds,
    memory,
    played,
    quantile,
)
from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient
from tidemill.domain.evidence import TOTAL
from tidemill.domain.rollout.model import Now, State, Workload
from tidemill.domain.rollout.readings import Counters, Reading

ROLLOUTS_AT_ONCE = 200
HARMFUL = 5
"""Every so many-th canary."""
REQUESTS_PER_SECOND = 1.0
RATES = {"harmful": 0.9, "healthy": 0.01}
"""Share of errors of a canary; stable has that of a healthy one."""
FLIGHT_SECONDS = 60
PATIENCE_SECONDS = 600.0
SPEC: dict[str, Any] = {
    # The first step holds all of them in flight until the last one is.
    "runtime__replicas": 1,
    "runtime__minReadySeconds": 0,
    "strategy__intervalSeconds": 10,
    "strategy__steps": [
        {"name": "c5", "weight": 500, "minEvents": 20},
        {"name": "c50", "weight": 5000, "minEvents": 30, "minSeconds": 120},
    ],
}


class SteadyTraffic:
    """Implements `ports.rollout.EvidenceSource`: requests arrive steadily, split by the weight."""

    def __init__(self, name: str) -> None:
        """`name` says how the canary is, as a host: `http://harmful`."""
        self._rate = RATES[name.partition("//")[2]]
        self._random = np.random.default_rng(0)
        self._seen: float | None = None
        self._counted: dict[str, Counter[str]] = {}

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:
        """Count what came since the last look."""
        seconds = now.wall.timestamp() - (self._seen or now.wall.timestamp())
        self._seen = now.wall.timestamp()
        if state.arms and state.applied_at:
            stable, canary = (arm.revision for arm in state.arms)
            came = self._random.poisson(seconds * REQUESTS_PER_SECOND)
            taken = self._random.binomial(came, state.weight / TOTAL)
            self._answer(stable, came - taken, RATES["healthy"])
            self._answer(canary, taken, self._rate)
        return Reading({name: self._counters(name) for name in workloads}, rehearsal="")

    def _answer(self, revision: str, requests: int, rate: float) -> None:
        found = self._counted.setdefault(revision, Counter())
        found["requests"] += int(requests)
        found["error"] += int(self._random.binomial(requests, rate))

    def _counters(self, revision: str) -> Counters:
        found = self._counted.setdefault(revision, Counter())
        return Counters(1.0, found["requests"], {"error": found["error"], "slow": 0})


def main() -> None:
    """Print the figures."""
    with control_plane() as (cluster, rollouts):
        namespace = cluster.namespace()
        with (
            rollouts.client(cluster) as api,
            rollouts.client(cluster) as hands,
            played(hands, namespace),
        ):
            _measure(cluster, api, namespace)


def _order(api: KubeClient, namespace: str, version: int) -> None:
    from tests.cluster import rollouts
    from tests.cluster.rollout_backends import model

    for number in range(ROLLOUTS_AT_ONCE):
        kind = "healthy" if number % HARMFUL else "harmful"
        evidence = {"source": "Prometheus", "url": f"http://{kind}"}
        spec = SPEC | {"model": model(version), "analysis__evidence": evidence}
        body = rollouts.manifest(namespace, f"model-{number}", **spec)
        if version == 1:
            api.create(ROLLOUTS, body)
        else:
            api.merge(ROLLOUTS, body)


def _measure(cluster: object, api: KubeClient, namespace: str) -> None:
    process, port, said = fleet_process(cluster.kubeconfig, namespace, SteadyTraffic)
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    began = time.monotonic()
    _order(api, namespace, 1)
    await_phase(port, "stable", ROLLOUTS_AT_ONCE)
    print(f"{ROLLOUTS_AT_ONCE} first versions serve after {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    _order(api, namespace, 2)
    await_phase(port, "progressing", ROLLOUTS_AT_ONCE)
    while not all(_applied(found) for found in api.select(ROLLOUTS, namespace, {})):
        time.sleep(1)
    print(f"all canaries have traffic after {time.monotonic() - began:.0f} s")
    while not said.empty():
        first = said.get()
    before = look_seconds(port)
    time.sleep(FLIGHT_SECONDS)
    after = look_seconds(port)
    while not said.empty():
        last = said.get()
    seconds = last[0] - first[0]
    looks = (after[float("inf")] - before.get(float("inf"), 0)) / FLIGHT_SECONDS
    calls = (last[1] - first[1]) / seconds * 60 / ROLLOUTS_AT_ONCE
    p50, p99 = (quantile(before, after, share) for share in (0.5, 0.99))
    print(f"in flight: {looks:.0f} looks/s, p50 ≤ {p50:g} s, p99 ≤ {p99:g} s")
    print(f"{calls:.1f} API calls/min per rollout, {(last[2] - first[2]) / seconds:.0%} of a core")
    print(f"memory of the controller: {memory(process.pid):.0f} MiB")
    outcomes = _outcomes(api, namespace)
    print(f"after {time.monotonic() - began:.0f} s: {outcomes}; load {os.getloadavg()[0]:.1f}")
    process.terminate()
    process.join()


def _applied(rollout: dict[str, Any]) -> bool:
    conditions = rollout["status"]["conditions"]
    return any((c["type"], c["status"]) == ("TrafficApplied", "True") for c in conditions)


def _outcomes(api: KubeClient, namespace: str) -> str:
    """Wait for the end of every attempt and say how many ended how, wrong ones apart."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        ended: Counter[str] = Counter()
        for found in api.select(ROLLOUTS, namespace, {}):
            number = int(found["metadata"]["name"].partition("-")[2])
            history = found.get("status", {}).get("history") or [{"outcome": "in flight"}]
            right = "promoted" if number % HARMFUL else "rolled_back"
            outcome = history[0]["outcome"]
            wrong = outcome not in (right, "in flight")
            ended[f"wrongly {outcome}" if wrong else outcome] += 1
        if not ended["in flight"] or time.monotonic() > deadline:
            return ", ".join(f"{count} {outcome}" for outcome, count in ended.items() if count)
        time.sleep(1)
