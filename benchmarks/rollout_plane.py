"""A real API server with the whole controller beside it; nodes and gateway are played.

Pods become ready and routes are taken up at the next look of this program, which asks each second.
Needs what the tests in `tests/cluster` need.
"""

from __future__ import annotations

import json
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
from tidemill.adapters.kubernetes.client import HTTP_ROUTES, PODS, KubeClient
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.errors import TidemillError
from tidemill.ports.rollout import EvidenceSource

__all__ = [
    "await_phase",
    "control_plane",
    "fleet_process",
    "look_seconds",
    "memory",
    "played",
    "quantile",
]

LOOK_SECONDS = 1.0
"""Between two looks of the nodes and the gateway that are played."""
PATIENCE_SECONDS = 600.0
LONG_AGO = "2026-01-01T00:00:00Z"


class _Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


class _Counting(httpx.Client):
    """Counts requests; a watch is one."""

    requests = 0

    def send(self, *arguments: object, **options: object) -> httpx.Response:
        _Counting.requests += 1
        return super().send(*arguments, **options)  # type: ignore[arg-type]


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
    """Start the tests' control plane; yield access to it and `tests.cluster.rollouts`.

    It has more addresses for Services than the tests' own; no node listens at them.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.cluster import rollouts, sources

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with sources.cluster(base / "shared", base / "own") as cluster:
            rollouts.install(cluster)
            _serve_more(cluster)
            yield cluster, rollouts


def _serve_more(cluster: object) -> None:
    spec = {"cidrs": ["100.64.0.0/16"]}
    body = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "spec": spec}
    made = json.dumps(body | {"metadata": {"name": "benchmark"}})
    cluster.kubectl("apply", "-f", "-", stdin=made)
    cluster.kubectl("wait", "servicecidr/benchmark", "--for=condition=Ready", "--timeout=60s")


@contextmanager
def played(api: KubeClient, namespace: str) -> Iterator[None]:
    """Play nodes and gateway."""
    stop = Event()
    thread = Thread(target=_play, args=(api, namespace, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _play(api: KubeClient, namespace: str, stop: Event) -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO}
    address = "10.9.0.1"
    ready = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    while not stop.wait(LOOK_SECONDS):
        try:
            for pod in api.select(PODS, namespace, {ROLLOUT: ""}):
                if pod["status"].get("phase") != "Running":
                    status = pod["status"] | ready | {"conditions": [condition]}
                    api.replace(PODS, pod | {"status": status}, "status")
            for route in api.select(HTTP_ROUTES, namespace, {}):
                if not _taken_up(route):
                    status = {
                        "parents": [_parent(route, ref) for ref in route["spec"]["parentRefs"]]
                    }
                    api.replace(HTTP_ROUTES, route | {"status": status}, "status")
        except TidemillError:  # it was written meanwhile, or went: the next time
            continue


def _parent(route: dict[str, Any], ref: dict[str, str]) -> dict[str, Any]:
    generation = route["metadata"]["generation"]
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "",
         "lastTransitionTime": LONG_AGO, "observedGeneration": generation}
        for kind in ("Accepted", "ResolvedRefs")
    ]  # fmt: skip
    return {"parentRef": ref, "controllerName": "benchmark.dev/gateway", "conditions": conditions}


def _taken_up(route: dict[str, Any]) -> bool:
    generation = route["metadata"]["generation"]
    return any(
        condition["observedGeneration"] == generation
        for parent in route.get("status", {}).get("parents", [])
        for condition in parent["conditions"]
    )


def await_phase(port: int, phase: str, rollouts: int) -> None:
    """Wait until so many are in a phase; raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := _phases(port, phase)) < rollouts:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found:.0f} are {phase}")
        time.sleep(0.5)


def _phases(port: int, phase: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = re.search(rf'tidemill_rollouts{{phase="{phase}"}} (\S+)', text)
    return float(found[1]) if found else 0


def memory(pid: int | None) -> float:
    """Return the resident memory of a process in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
