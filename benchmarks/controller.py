"""A thousand rollouts on a real API server: time of a look, calls at rest, memory.

The controller runs in a process of its own. Each rollout has deployed its first version and rests;
changes are edits that the controller must acknowledge. Needs what the tests in `tests/cluster`
need.
"""

from __future__ import annotations

import multiprocessing
import time
from threading import Event, Thread
from typing import Any

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
from tidemill.errors import Conflict
from tidemill.ports.rollout import EvidenceSource

ROLLOUTS_IN_ALL = 1000
CHANGES_PER_SECOND = 50
CHANGE_SECONDS = 20
REST_SECONDS = 60
CALM = 10
PATIENCE_SECONDS = 600.0
LEASE_CALLS = 3
"""Calls of a second in which only the Lease is renewed, at most."""
SPEC: dict[str, Any] = {"runtime__replicas": 1, "runtime__minReadySeconds": 0}


def nothing(_: str) -> EvidenceSource:
    """Return evidence of servers that there are none of."""
    from tidemill.testing.rollout import FakeGateway, FakeServers, FakeTraffic

    return FakeTraffic(FakeServers(), FakeGateway())


def main() -> None:
    """Print the figures."""
    with (
        control_plane() as (cluster, rollouts),
        rollouts.client(cluster) as api,
        rollouts.client(cluster) as hands,
    ):
        _measure(cluster, api, hands, rollouts)


def _measure(cluster: Any, api: KubeClient, hands: KubeClient, rollouts: Any) -> None:
    namespace = cluster.namespace()
    for number in range(ROLLOUTS_IN_ALL):
        api.create(ROLLOUTS, rollouts.manifest(namespace, f"model-{number}", **SPEC))
    began = time.monotonic()
    process, port, said = fleet_process(cluster.kubeconfig, namespace, nothing)
    with played(hands, namespace):
        await_phase(port, "stable", ROLLOUTS_IN_ALL)
        print(f"{ROLLOUTS_IN_ALL} first versions serve after {time.monotonic() - began:.0f} s")
    _settle(said)
    rest = _rest(said)
    print(f"at rest: {rest['calls']:.2f} API calls/min per rollout, {rest['cpu']:.0%} of a core")
    before = look_seconds(port)
    delays = _change(api, namespace)
    after = look_seconds(port)
    p50, p99 = (quantile(before, after, share) for share in (0.5, 0.99))
    print(f"{CHANGES_PER_SECOND} changes/s, look: p50 ≤ {p50:g} s, p99 ≤ {p99:g} s")
    delays.sort()
    middle, most = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"edit until observedGeneration, seen by polling: p50 {middle:.2f} s, p99 {most:.2f} s")
    print(f"memory of the controller: {memory(process.pid):.0f} MiB")
    process.terminate()
    process.join()


def _settle(said: multiprocessing.Queue) -> None:
    """Wait until for ten seconds nothing but the Lease was written; raises TimeoutError."""
    calm, last, deadline = 0, said.get(timeout=10)[1], time.monotonic() + PATIENCE_SECONDS
    while calm < CALM:
        if time.monotonic() > deadline:
            raise TimeoutError("the controller never comes to rest")
        _, calls, _ = said.get(timeout=10)
        calm, last = (calm + 1 if calls - last <= LEASE_CALLS else 0), calls


def _rest(said: multiprocessing.Queue) -> dict[str, float]:
    first = last = said.get(timeout=10)
    while last[0] - first[0] < REST_SECONDS:
        last = said.get(timeout=10)
    seconds = last[0] - first[0]
    calls = (last[1] - first[1]) / seconds * 60 / ROLLOUTS_IN_ALL
    return {"calls": calls, "cpu": (last[2] - first[2]) / seconds}


def _change(api: KubeClient, namespace: str) -> list[float]:
    """Edit rollouts at a steady rate; return how long each edit took to be observed."""
    edited: dict[str, tuple[float, int]] = {}
    delays: list[float] = []
    stop = Event()
    watcher = Thread(target=_observe, args=(api, namespace, edited, delays, stop))
    watcher.start()
    began = time.monotonic()
    for number in range(CHANGES_PER_SECOND * CHANGE_SECONDS):
        name = f"model-{number % ROLLOUTS_IN_ALL}"
        metadata = {"name": name, "namespace": namespace}
        body = {"metadata": metadata, "spec": {"paused": True}}
        try:
            found = api.merge(ROLLOUTS, body)
        except Conflict:
            continue
        edited[name] = (time.monotonic(), found["metadata"]["generation"])
        due = began + (number + 1) / CHANGES_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
    time.sleep(5)
    stop.set()
    watcher.join()
    return delays


def _observe(
    api: KubeClient,
    namespace: str,
    edited: dict[str, tuple[float, int]],
    delays: list[float],
    stop: Event,
) -> None:
    while not stop.is_set():
        for found in api.select(ROLLOUTS, namespace, {}):
            name = found["metadata"]["name"]
            at, generation = edited.get(name, (0.0, 0))
            if at and found.get("status", {}).get("observedGeneration", 0) >= generation:
                delays.append(time.monotonic() - at)
                del edited[name]
        time.sleep(0.2)


if __name__ == "__main__":
    main()
