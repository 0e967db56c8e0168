"""Servers per revision on a real API server and its controllers; the kubelet is played."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.cluster.rollouts import eventually, owner, run_pods, set_status
from tests.unit.rollout_world import START

from tidemill.adapters.kubernetes import workloads as module
from tidemill.adapters.kubernetes.client import DEPLOYMENTS, PODS, ROLLOUTS, SERVICES, KubeClient
from tidemill.adapters.kubernetes.owned import REVISION, ROLLOUT, Owner
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.domain.rollout.model import Revision
from tidemill.errors import IntegrityError, NotFound, Unavailable

NAME = "flight-delay"


pytestmark = pytest.mark.usefixtures("controllers")


@pytest.fixture
def restricted(cluster) -> Iterator[str]:
    name = cluster.namespace(enforce="restricted")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def owned(api, restricted) -> Owner:
    return owner(api, restricted)


@pytest.fixture
def revision(api, owned) -> Revision:
    return ResourceRollouts(api, owned.namespace, lambda: START).spec(NAME).desired


@pytest.fixture
def servers(api, owned) -> DeploymentWorkloads:
    return DeploymentWorkloads(api, owned, replicas=2)


def chosen(revision: Revision) -> dict[str, str]:
    return {ROLLOUT: NAME, REVISION: revision.revision}


def test_servers_start_are_seen_and_end(api, owned, servers, revision):
    servers.ensure(revision)
    seen = servers.observe()[revision.revision]
    assert (seen.ready, seen.desired) == (0, 2)
    assert seen.address == f"{NAME}-{revision.revision}.{owned.namespace}.svc:8080"
    run_pods(api, owned.namespace, chosen(revision), 2)
    seen = eventually(lambda: (w := servers.observe()[revision.revision]).ready == 2 and w)
    assert seen.detail == ""
    assert sorted(seen.servers.values()) == ["10.9.0.1:8080", "10.9.0.2:8080"]
    servers.remove(revision.revision)
    servers.remove(revision.revision)
    eventually(lambda: servers.observe() == {})
    with pytest.raises(NotFound):
        api.get(SERVICES, owned.namespace, f"{NAME}-{revision.revision}")


def test_pods_obey_the_restricted_profile(api, owned, servers, revision):
    servers.ensure(revision)
    pods = eventually(lambda: api.select(PODS, owned.namespace, chosen(revision)))
    (container,) = pods[0]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pods[0]["spec"]["automountServiceAccountToken"] is False
    assert container["args"][2] == f"/models/bundles/{'a' * 10}"


def test_the_registry_is_asked_by_an_init_container(api, owned, servers, revision):
    runtime = {k: v for k, v in revision.runtime.items() if k != "bundles"}
    runtime |= {"fetchImage": revision.runtime["image"], "secret": {"name": "keys"}}
    fetched = replace(revision, revision="fedcba9876", bundle="/models/bundle", runtime=runtime)
    servers.ensure(fetched)
    pods = eventually(lambda: api.select(PODS, owned.namespace, chosen(fetched)))
    (init,) = pods[0]["spec"]["initContainers"]
    assert init["args"] == ["registry", "fetch", f"{NAME}/1", "/models/bundle"]
    assert init["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_placement_priority_and_pull_secrets_are_the_runtimes(
    cluster, api, owned, servers, revision
):
    """A revision that says nothing of them is the one that it was before there were such fields."""
    name = f"serving-{owned.namespace}"
    cluster.kubectl("create", "priorityclass", name, "--value=200000")
    given = {
        "priorityClassName": name,
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "ml", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "pull"}],
    }
    try:
        servers.ensure(replace(revision, runtime=dict(revision.runtime) | given))
        (spec, *_) = eventually(
            lambda: [p["spec"] for p in api.select(PODS, owned.namespace, chosen(revision))]
        )
    finally:
        cluster.kubectl("delete", "priorityclass", name)
    assert spec["priority"] == 200000
    assert given.items() <= (spec | {"tolerations": spec["tolerations"][:1]}).items()
    assert not given.keys() & revision.runtime.keys()


def test_a_quota_on_requests_admits_pods_that_fetch(cluster, api, owned, servers, revision):
    """A quota refuses pods of which any container, an init container too, requests nothing."""
    quota = ("quota", "cpu", "--hard=requests.cpu=2,requests.memory=2Gi,limits.memory=2Gi")
    cluster.kubectl("create", *quota, "--namespace", owned.namespace)
    runtime = {k: v for k, v in revision.runtime.items() if k != "bundles"}
    compute = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    runtime |= {"fetchImage": revision.runtime["image"], "resources": compute}
    servers.ensure(replace(revision, bundle="/models/bundle", runtime=runtime))
    eventually(lambda: api.select(PODS, owned.namespace, chosen(revision)))


def deployment(api: KubeClient, owned: Owner, revision: Revision) -> dict:
    return api.get(DEPLOYMENTS, owned.namespace, owned.object_name(revision.revision))


def test_what_is_so_already_is_not_written_again(api, owned, servers, revision):
    class Counting:
        writes = 0

        def apply(self, *arguments: object, **options: bool) -> object:
            Counting.writes += 1
            return api.apply(*arguments, **options)

        def __getattr__(self, name: str) -> object:
            return getattr(api, name)

    counted = DeploymentWorkloads(Counting(), owned, replicas=2)
    for _ in range(3):
        counted.ensure(revision)
    assert Counting.writes == 2, "a Service and a Deployment"


def test_a_newer_controller_restarts_nothing(api, owned, servers, revision, monkeypatch):
    servers.ensure(revision)
    before = deployment(api, owned, revision)
    original = module.server_pod

    def newer(*arguments: object) -> dict:
        return original(*arguments) | {"terminationGracePeriodSeconds": 99}

    monkeypatch.setattr(module, "server_pod", newer)
    DeploymentWorkloads(api, owned, replicas=2).ensure(revision)
    after = deployment(api, owned, revision)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_an_edit_by_hand_is_taken_back(cluster, api, owned, servers, revision):
    servers.ensure(revision)
    before = deployment(api, owned, revision)["spec"]
    name = f"deployment/{owned.object_name(revision.revision)}"
    cluster.kubectl("set", "image", name, "server=evil:latest", "-n", owned.namespace)
    servers.ensure(revision)
    assert deployment(api, owned, revision)["spec"] == before


def test_a_forged_note_on_a_deployment_reaches_no_other_object(
    cluster, api, owned, servers, revision
):
    servers.ensure(revision)
    live = deployment(api, owned, revision)
    forged = json.loads(live["metadata"]["annotations"][module.KEPT])
    forged["metadata"] = {"name": "elsewhere", "namespace": "kube-system"}
    name = f"deployment/{owned.object_name(revision.revision)}"
    note = f"{module.KEPT}={json.dumps(forged)}"
    cluster.kubectl("annotate", name, note, "--overwrite", "-n", owned.namespace)
    with contextlib.suppress(Unavailable):
        DeploymentWorkloads(api, owned, replicas=2).ensure(revision)
    assert "elsewhere" not in cluster.kubectl("get", "deployments", "-A", "-o", "name")


def test_replicas_follow_the_specification(api, owned, servers, revision):
    servers.ensure(revision)
    servers.replicas = 3
    servers.ensure(revision)
    assert deployment(api, owned, revision)["spec"]["replicas"] == 3
    seen = servers.observe()[revision.revision]
    assert (seen.ready, seen.desired) == (0, 3)


def test_an_evicted_server_is_lost_until_another_is_ready(api, owned, servers, revision):
    servers.ensure(revision)
    mine = chosen(revision)
    run_pods(api, owned.namespace, mine, 2)
    eventually(lambda: servers.observe()[revision.revision].ready == 2)
    gone = api.select(PODS, owned.namespace, mine)[0]["metadata"]["name"]
    meta = {"name": gone, "namespace": owned.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    path = f"/api/v1/namespaces/{owned.namespace}/pods/{gone}/eviction"
    api._http.post(path, json=eviction).raise_for_status()
    eventually(lambda: servers.observe()[revision.revision].ready == 1)
    run_pods(api, owned.namespace, mine, 2)
    eventually(lambda: servers.observe()[revision.revision].ready == 2)


def test_why_a_server_does_not_start(api, owned, servers, revision):
    servers.ensure(revision)
    mine = chosen(revision)
    pods = eventually(lambda: len(p := api.select(PODS, owned.namespace, mine)) == 2 and p)
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}
    container = {
        "name": "server",
        "image": "",
        "imageID": "",
        "ready": False,
        "restartCount": 3,
        "state": {"waiting": waiting},
    }
    for pod in pods:
        name = pod["metadata"]["name"]
        set_status(api, PODS, name, owned.namespace, {"containerStatuses": [container]})
    detail = eventually(lambda: _detail(servers, revision, "CrashLoop"))
    assert detail == "CrashLoopBackOff: back-off 10s restarting"


@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_a_pod_that_refuses_to_start_says_so(api, owned, servers, revision, kind):
    servers.ensure(revision)
    assert not servers.observe()[revision.revision].refused
    mine = chosen(revision)
    pods = eventually(lambda: len(p := api.select(PODS, owned.namespace, mine)) == 2 and p)
    error = IntegrityError("/b: golden row 7 is 0.3", hint="do not serve it")
    ended = {"exitCode": 3, "message": f'{{"event": "model loaded"}}\n{error.spoken}'}
    container = {
        "name": "server",
        "image": "",
        "imageID": "",
        "ready": False,
        "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": ended},
    }
    name = pods[0]["metadata"]["name"]
    set_status(api, PODS, name, owned.namespace, {kind: [container]})
    seen = eventually(lambda: (w := servers.observe()[revision.revision]).refused and w)
    assert seen.detail == "ended with exit code 3: /b: golden row 7 is 0.3"
    again = {"state": {"terminated": {"exitCode": 0}}} if kind[0] == "i" else {"ready": True}
    set_status(api, PODS, name, owned.namespace, {kind: [container | again]})
    eventually(lambda: not servers.observe()[revision.revision].refused)


def _detail(servers: DeploymentWorkloads, revision: Revision, part: str) -> str:
    found = servers.observe()[revision.revision].detail
    return found if part in found else ""


def test_a_quota_is_the_reason_and_no_crash(cluster, api, owned, servers, revision):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": owned.namespace},
        "spec": {"hard": {"count/deployments.apps": "0"}},
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    jsonpath = "--for=jsonpath={.status.hard}"
    cluster.kubectl("wait", jsonpath, "resourcequota/none", "-n", owned.namespace)
    with pytest.raises(Unavailable, match="exceeded quota"):
        eventually(lambda: servers.ensure(revision), seconds=10)
    seen = servers.observe()[revision.revision]
    assert seen.ready == 0
    assert "exceeded quota" in seen.detail


def test_all_end_with_the_rollout(api, owned, servers, revision):
    servers.ensure(revision)
    api.delete(ROLLOUTS, owned.namespace, NAME)
    eventually(lambda: not api.select(DEPLOYMENTS, owned.namespace, {}))
    eventually(lambda: not api.select(SERVICES, owned.namespace, {ROLLOUT: NAME}))
