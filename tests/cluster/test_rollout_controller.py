"""The controller as it runs on a cluster, under its own role alone."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from tests.charts.rendering import controller_rules
from tests.cluster.rollout_plane import PlayedPlane
from tests.cluster.rollouts import (
    ROOT,
    attached,
    attachment,
    bind,
    client,
    eventually,
    manifest,
)

from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    LEASES,
    ROLLOUTS,
    KubeClient,
    Manifest,
)
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.errors import TidemillError
from tidemill.testing.rollout import FakeReleases
from tidemill.wiring.kubernetes import LEASE, RolloutFleet

pytestmark = pytest.mark.usefixtures("controllers")

ACCOUNT = "rollout-controller"
MAIN = "from tidemill.cli import main; main()"
NAME = "flight-delay"
FAST = {
    "traffic__settleSeconds": 0,
    "strategy__steps": [
        {"name": "c10", "weight": 1000, "minEvents": 300},
        {"name": "c50", "weight": 5000, "gate": ["errors"], "minEvents": 500},
    ],
    "strategy__scaleDownDelaySeconds": 1,
    "runtime__replicas": 1,
}


class Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


def grant(cluster: Any, namespace: str, rules: list[Manifest]) -> Any:
    """Give the account exactly these rules and return its access."""
    access = cluster.user(ACCOUNT, namespace)
    bind(cluster, namespace, ACCOUNT, rules)
    return access


@pytest.fixture
def account(cluster, api, namespace, programs) -> Any:
    return grant(cluster, namespace, controller_rules())


class Running:
    """A controller in a thread, as the account."""

    def __init__(self, http: KubeClient, scope: str, home: str, plane: PlayedPlane) -> None:
        self.stop = Event()
        self.sources: list[str] = []
        self._plane = plane
        self.releases = FakeReleases()
        self.error: list[TidemillError] = []
        self._fleet = RolloutFleet(
            http,
            scope,
            home,
            ("127.0.0.1", 0),
            Now(),
            self._evidence,
            self.releases,
            f"controller-{id(self)}",
        )
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _evidence(self, prometheus: str) -> PlayedPlane:
        self.sources.append(prometheus)
        return self._plane

    def _run(self) -> None:
        try:
            self._fleet.run(self.stop)
        except TidemillError as error:
            self.error.append(error)

    def end(self) -> None:
        self.stop.set()
        self._thread.join()

    def page(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._fleet.port}{path}", trust_env=False)


@contextmanager
def running(
    access: Any, home: str, plane: PlayedPlane, scope: str | None = None
) -> Iterator[Running]:
    """Run a controller of a namespace, its home's unless `scope` names another; empty: of all."""
    with client(access) as http:
        controller = Running(http, home if scope is None else scope, home, plane)
        try:
            yield controller
        finally:
            controller.end()


def status(api: KubeClient, namespace: str) -> dict[str, Any]:
    return api.get(ROLLOUTS, namespace, NAME).get("status", {})


def until(api: KubeClient, namespace: str, **wanted: Any) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = status(api, namespace)
        return found if wanted.items() <= found.items() else None

    return eventually(look, 90)


def test_a_route_that_is_edited_is_taken_back_and_told(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane) as one:
        api.create(ROLLOUTS, manifest(namespace, **FAST))
        stable(api, namespace, "1")
        count = "tidemill_rollout_routes_repaired_total"
        assert f"{count} 0.0" in one.page("/metrics").text
        patch = '[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 0}]'
        where = ("httproute", NAME, "-n", namespace, "--type=json", "-p", patch)
        cluster.kubectl("patch", *where)
        eventually(lambda: f"{count} 1.0" in one.page("/metrics").text)
        eventually(lambda: list(plane.weights().values()) == [10000])

        def told() -> list[dict[str, Any]]:
            said = cluster.kubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json")
            return [e for e in json.loads(said)["items"] if e["reason"] == "RouteRepaired"]

        (event,) = eventually(told)
        assert (event["type"], event["regarding"]["name"]) == ("Warning", NAME)
        assert '"kubectl-patch"' in event["note"]
        assert f"{NAME}-" in event["note"]


def test_who_writes_on_a_stale_reading_waits_and_reads_again(cluster, api, namespace, account):
    """Two writers of one status: the controller loses each race of a while, and then goes on."""
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane) as one:
        api.create(ROLLOUTS, manifest(namespace, **FAST))
        stable(api, namespace, "1")
        stop = Event()
        writer = Thread(target=scribble, args=(api, namespace, stop))
        writer.start()
        want(cluster, namespace, 2)
        lost = 'tidemill_rollout_look_seconds_count{result="conflict"}'
        eventually(lambda: lost in one.page("/metrics").text)
        stop.set()
        writer.join()
        stable(api, namespace, "2")
        assert 'result="broken"' not in one.page("/metrics").text


def scribble(api: KubeClient, namespace: str, stop: Event) -> None:
    """Write the resource's labels without a pause."""
    for number in itertools.count():
        if stop.is_set():
            return
        labels = {"edit": str(number)}
        where = {"name": NAME, "namespace": namespace, "labels": labels}
        api.merge(ROLLOUTS, {"metadata": where})


def want(cluster: Any, namespace: str, number: int) -> None:
    model = {"version": str(number), "digest": "sha256:" + str(number) * 64}
    patch = json.dumps({"spec": {"model": model}})
    cluster.kubectl("patch", "mro", NAME, "-n", namespace, "--type=merge", "-p", patch)


def stable(api: KubeClient, namespace: str, version: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = status(api, namespace)
        calm = found.get("phase") == "stable" and "attempt" not in found
        return found if calm and found["stable"]["version"] == version else None

    return eventually(look, 90)


def test_the_resource_says_where_evidence_is_read(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane) as one:
        api.create(ROLLOUTS, manifest(namespace, **FAST))
        eventually(lambda: one.sources, 30)
        url = "http://prometheus.monitoring:9090"
        evidence = {"source": "Prometheus", "url": url}
        patch = json.dumps({"spec": {"analysis": {"evidence": evidence}}})
        cluster.kubectl("patch", "mro", NAME, "-n", namespace, "--type=merge", "-p", patch)
        eventually(lambda: url in one.sources, 30)
        assert one.sources == ["", url], "another source, and no other reason to begin anew"


@pytest.mark.slow
def test_from_the_first_deployment_to_a_rollback(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane) as one:
        api.create(ROLLOUTS, manifest(namespace, **FAST))
        stable(api, namespace, "1")
        want(cluster, namespace, 2)
        wait = (f"mro/{NAME}", "-n", namespace, "--timeout=300s")
        cluster.kubectl("wait", "--for=jsonpath={.status.canary.version}=2", *wait)
        cluster.kubectl("wait", "--for=condition=Promoted", *wait)
        stable(api, namespace, "2")
        plane.rates["3"] = 0.9
        want(cluster, namespace, 3)
        eventually(lambda: status(api, namespace).get("history", [{}])[0].get("attempt") == 2, 90)
        found = stable(api, namespace, "2")
        assert [h["outcome"] for h in found["history"]] == ["rolled_back", "promoted"]
        assert "harm in errors" in found["history"][0]["reason"]
        assert plane.unanswered == 0
        eventually(lambda: len(api.select(DEPLOYMENTS, namespace, {ROLLOUT: NAME})) == 1)
        eventually(lambda: list(plane.weights().values()) == [10000])
        assert [r.kind for r in one.releases.told] == ["promoted", "promoted", "rolled_back"]
        events = cluster.kubectl("get", "events", "-n", namespace, "-o", "json")
        reasons = {(e["reason"], e["type"]) for e in json.loads(events)["items"]}
        assert {("Deploy", "Normal"), ("Promote", "Normal"), ("Rollback", "Warning")} <= reasons
        assert one.page("/healthz").text == one.page("/readyz").text == "ok"
        assert one.page("/nothing").status_code == 404
        metrics = one.page("/metrics").text
        for line in (
            'tidemill_rollouts{phase="stable"} 1.0',
            'tidemill_rollout_decisions_total{action="rollback"} 1.0',
            "tidemill_rollout_leader 1.0",
            'tidemill_rollout_look_seconds_count{result="done"}',
        ):
            assert line in metrics
        assert 'result="broken"' not in metrics
    lease = api.get(LEASES, namespace, LEASE)
    assert lease["spec"]["holderIdentity"] == "", "given back"
    (keeper,) = lease["metadata"]["ownerReferences"]
    assert (keeper["kind"], keeper["name"]) == ("ServiceAccount", ACCOUNT), "it goes with it"


@pytest.mark.slow
def test_a_second_controller_waits_and_takes_over(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane) as one:
        api.create(ROLLOUTS, manifest(namespace, **FAST))
        stable(api, namespace, "1")
        with running(account, namespace, plane) as other:
            eventually(lambda: other.page("/readyz").text == "ok")
            one.end()
            want(cluster, namespace, 2)
            stable(api, namespace, "2")
            assert 'tidemill_rollouts{phase="stable"} 1.0' in other.page("/metrics").text
            assert plane.unanswered == 0


@pytest.mark.slow
def test_a_route_of_others_is_tidied_before_the_rollout_goes(api, namespace, account):
    before = api.create(HTTP_ROUTES, attachment(namespace))
    with PlayedPlane(api, namespace, "api") as plane, running(account, namespace, plane):
        api.create(ROLLOUTS, manifest(namespace, **attached(FAST)))
        stable(api, namespace, "1")
        eventually(lambda: 10000 in plane.weights().values())
        api.delete(ROLLOUTS, namespace, NAME)
        eventually(lambda: not api.select(ROLLOUTS, namespace, {}))
        assert api.get(HTTP_ROUTES, namespace, "api")["spec"] == before["spec"]


def test_the_command_runs_until_it_is_told_to_end(api, namespace, account, tmp_path):
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs/base.yaml", tmp_path / "configs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("rollout", "controller", "--on", "kubernetes", "--namespace", namespace)
    environment = {
        **os.environ,
        "KUBECONFIG": str(account.kubeconfig),
        "TIDEMILL_PROJECT": str(tmp_path),
    }
    # Its own namespace is `default` outside of a pod: there this account may hold no Lease.
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words, "--listen", f"127.0.0.1:{port}"],
        env=environment,
    )
    try:
        eventually(lambda: answers(port, "/readyz"))
        assert answers(port, "/healthz")
        assert not api.select(LEASES, namespace, {})
    finally:
        process.terminate()
    assert process.wait(20) == 0


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).text == "ok"
    except httpx.ConnectError:
        return False
