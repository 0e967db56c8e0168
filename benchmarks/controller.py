"""A thousand rollouts on a real API server: time of a look, calls at rest, memory.

Needs what the tests in `tests/cluster` need. The controller runs in a process of its own; nodes,
gateways and evidence are absent, so rollouts rest in `initializing` and changes are edits that it
must acknowledge: the cost of the driver, not of a data plane. The test cluster has addresses for
253 Services; the other rollouts are refused theirs and ask again at every look, which is all that
the calls at rest are.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from tidemill.adapters.kubernetes.access import connect
from tidemill.adapters.kubernetes.client import ROLLOUTS, KubeClient
from tidemill.errors import Conflict
from tidemill.ports.rollout import EvidenceSource

__all__ = ["control_plane", "fleet_process", "look_seconds", "memory", "phases", "quantile"]

ROLLOUTS_IN_ALL = 1000
CHANGES_PER_SECOND = 50
CHANGE_SECONDS = 20
REST_SECONDS = 60
CALM = 10
LEASE_CALLS = 3
"""Calls of a second in which only the Lease is renewed, at most."""


class _Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


class _Counting(httpx.Client):
    """Counts requests; a watch is one."""

    requests = 0

    def send(self, *arguments: object, **options: object) -> httpx.Response:
        _Counting.requests += 1
        return super().send(*arguments, **options)  # type: ignore[arg-type]


def nothing(_: str) -> EvidenceSource:
    """Return evidence of servers that there are none of."""
    from tidemill.testing.rollout import FakeGateway, FakeServers, FakeTraffic

    return FakeTraffic(FakeServers(), FakeGateway())


def _controller(
    kubeconfig: str,
    namespace: str,
    evidence: Callable[[str], EvidenceSource],
    said: multiprocessing.Queue,
) -> None:
    """Run the controller; tell its port, then its counts every second."""
    import structlog

    from tidemill.testing.rollout import FakeReleases
    from tidemill.wiring.kubernetes import RolloutFleet

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    http = connect(Path(kubeconfig))
    http.__class__ = _Counting
    fleet = RolloutFleet(
        KubeClient(http),
        namespace,
        namespace,
        ("127.0.0.1", 0),
        _Now(),
        evidence,
        FakeReleases(),
        "benchmark",
    )
    said.put(fleet.port)
    stop = Event()
    Thread(target=_count, args=(said,), daemon=True).start()
    fleet.run(stop)


def fleet_process(
    kubeconfig: Path, namespace: str, evidence: Callable[[str], EvidenceSource]
) -> tuple[multiprocessing.Process, int, multiprocessing.Queue]:
    """Start a controller; return its process, its port, and what tells its counts every second."""
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.Queue = context.Queue()
    arguments = (str(kubeconfig), namespace, evidence, said)
    process = context.Process(target=_controller, args=arguments, daemon=True)
    process.start()
    return process, said.get(timeout=60), said


def _count(said: multiprocessing.Queue) -> None:
    while True:
        time.sleep(1)
        used = time.process_time()
        said.put((time.monotonic(), _Counting.requests, used))


def look_seconds(port: int) -> dict[float, float]:
    """Return the cumulative counts of looks by their bound."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = re.findall(r'look_seconds_bucket\{le="([^"]+)",result="done"\} (\S+)', text)
    return {float(bound): float(count) for bound, count in found}


def quantile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Return the bound under which `share` of the looks between two readings ended."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in after}
    whole = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= share * whole)


@contextmanager
def control_plane() -> Iterator[tuple[Any, Any]]:
    """Start the tests' control plane; yield access to it and `tests.cluster.rollouts`."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.cluster import rollouts, sources

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with sources.cluster(base / "shared", base / "own") as cluster:
            rollouts.install(cluster)
            yield cluster, rollouts


def main() -> None:
    """Print the figures."""
    with control_plane() as (cluster, rollouts), rollouts.client(cluster) as api:
        _measure(cluster, api, cluster.namespace(), rollouts)


def _measure(cluster: object, api: KubeClient, namespace: str, rollouts: object) -> None:
    for number in range(ROLLOUTS_IN_ALL):
        api.create(ROLLOUTS, rollouts.manifest(namespace, f"model-{number}"))
    began = time.monotonic()
    process, port, said = fleet_process(cluster.kubeconfig, namespace, nothing)
    while phases(port, "initializing") < ROLLOUTS_IN_ALL:
        time.sleep(0.5)
    print(f"{ROLLOUTS_IN_ALL} rollouts taken up after {time.monotonic() - began:.0f} s")
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


def phases(port: int, phase: str) -> float:
    """Return how many rollouts are in a phase."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = re.search(rf'tidemill_rollouts{{phase="{phase}"}} (\S+)', text)
    return float(found[1]) if found else 0


def _settle(said: multiprocessing.Queue) -> None:
    """Wait until for ten seconds nothing but the Lease was written."""
    calm, last = 0, said.get(timeout=10)[1]
    while calm < CALM:
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


def memory(pid: int | None) -> float:
    """Return the resident memory of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
