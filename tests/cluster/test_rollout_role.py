"""The controller's role: nothing that it needs is missing, nothing it has is unneeded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.charts.rendering import controller_rules
from tests.cluster.rollouts import MIRRORS, client, eventually, gateway, manifest
from tests.unit.rollout_world import START

from tidemill.adapters.kubernetes.cache import Cache
from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    GRPC_ROUTES,
    HTTP_ROUTES,
    LEASES,
    PODS,
    POLICIES,
    ROLLOUTS,
    SERVICES,
    KubeClient,
    Manifest,
    Resource,
)
from tidemill.adapters.kubernetes.events import DecisionEvents
from tidemill.adapters.kubernetes.finalizer import set_mark
from tidemill.adapters.kubernetes.lease import Election
from tidemill.adapters.kubernetes.mirroring import Mirroring
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads
from tidemill.domain.rollout.model import Backend, Decision, Route, State
from tidemill.errors import NotFound, TidemillError
from tidemill.wiring.kubernetes import LEASE

NAME = "flight-delay"
ACCOUNT = "minimal"
CLUSTER = {"gateways", "gatewayclasses"}
"""Resources that are granted beyond the namespace."""
REVIEWS = Resource(
    "authorization.k8s.io/v1", "LocalSubjectAccessReview", "localsubjectaccessreviews"
)
DECISION = Decision(1, START, START, 1, "weight", "", "stable", "a" * 10, 500, 1)


@pytest.fixture(scope="module")
def admin(definitions) -> Iterator[KubeClient]:
    with client(definitions) as api:
        yield api


@dataclass(frozen=True)
class Bench:
    """A namespace with a rollout, and the API as the controller's account sees it."""

    cluster: Any
    admin: KubeClient
    api: KubeClient
    namespace: str

    def grant(self, rules: list[Manifest]) -> None:
        """Let the account do exactly this."""
        group = "rbac.authorization.k8s.io"
        meta = {"name": ACCOUNT, "namespace": self.namespace}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.namespace}
        wide = [rule for rule in rules if CLUSTER & set(rule["resources"])]
        own = [rule for rule in rules if rule not in wide]
        for kind, part, where in (
            ("Role", own, meta),
            ("ClusterRole", wide, {"name": f"{ACCOUNT}-{self.namespace}"}),
        ):
            reference = {"apiGroup": group, "kind": kind, "name": where["name"]}
            head = {"apiVersion": f"{group}/v1", "metadata": where}
            binding = head | {"kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]}
            for body in (head | {"kind": kind, "rules": part}, binding):
                self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def may(self, verb: str, resource: str, name: str = "") -> bool:
        """Ask the authorizer; `resource` is `plural/sub.group`."""
        plural, _, group = resource.partition(".")
        plural, _, sub = plural.partition("/")
        asked = {"verb": verb, "resource": plural, "group": group, "subresource": sub}
        review = {
            "apiVersion": REVIEWS.api,
            "kind": REVIEWS.kind,
            "metadata": {"namespace": self.namespace},
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:{ACCOUNT}",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": asked | {"namespace": self.namespace, "name": name},
            },
        }
        return bool(self.admin.create(REVIEWS, review)["status"]["allowed"])

    def owner(self, name: str) -> Owner:
        """Create a rollout, as its user would."""
        made = self.admin.create(ROLLOUTS, manifest(self.namespace, name))
        return Owner(self.namespace, name, made["metadata"]["uid"])


@pytest.fixture(scope="module")
def bench(cluster, admin, programs) -> Iterator[Bench]:
    namespace = cluster.namespace()
    with client(cluster.user(ACCOUNT, namespace)) as api:
        yield Bench(cluster, admin, api, namespace)


def rules() -> list[Manifest]:
    """Return the controller's rules, as the chart grants them."""
    return copy.deepcopy(controller_rules())


def listing(resource: Resource) -> Callable[[Bench, Owner], object]:
    """List and watch as the cache does."""

    def act(bench: Bench, _: Owner) -> object:
        _, version = bench.api.page(resource, bench.namespace, {})
        return version

    return act


def watching(resource: Resource) -> Callable[[Bench, Owner], object]:
    def act(bench: Bench, _: Owner) -> object:
        # From the beginning of time the first event, or an error, comes at once.
        watch = bench.api.watch(resource, bench.namespace, {}, "0")
        bench.admin.create(resource, _sample(resource, bench.namespace))
        with_events = next(watch)
        watch.close()
        return with_events

    return act


def _sample(resource: Resource, namespace: str) -> Manifest:
    """Return any object of a kind, so that a watch has something to tell."""
    meta = {"generateName": "sample-", "namespace": namespace}
    container = {"name": "c", "image": "i"}
    labels = {"sample": "sample"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    bodies: dict[str, Manifest] = {
        "ModelRollout": {"spec": manifest(namespace)["spec"]},
        "AnalysisPolicy": {"spec": manifest(namespace)["spec"]["analysis"]["inline"]},
        "Deployment": {
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        },
        "Service": {"spec": {"ports": [{"port": 1}]}},
        "Pod": {"spec": {"containers": [container]}},
        "HTTPRoute": {"spec": {}},
        "GRPCRoute": {"spec": {}},
    }
    return {"apiVersion": resource.api, "kind": resource.kind, "metadata": meta} | bodies[
        resource.kind
    ]


def workloads(bench: Bench, owner: Owner) -> DeploymentWorkloads:
    """Make servers through a cache that has seen nothing: every write is a write."""
    return DeploymentWorkloads(_unread(bench), owner, replicas=0)


def _unread(bench: Bench) -> Cache:
    watched = {kind: {} for kind in (ROLLOUTS, DEPLOYMENTS, SERVICES, PODS, POLICIES)}
    return Cache(bench.api, watched, bench.namespace, lambda *_: None)


def deploy(bench: Bench, owner: Owner) -> None:
    found = ResourceRollouts(bench.admin, bench.namespace, lambda: START).spec(owner.name)
    assert found
    workloads(bench, owner).ensure(found.desired)


def scale(bench: Bench, owner: Owner) -> None:
    """Deploy as a neighbour with all rights, then change it with ours."""
    found = ResourceRollouts(bench.admin, bench.namespace, lambda: START).spec(owner.name)
    assert found
    DeploymentWorkloads(bench.admin, owner, replicas=0).ensure(found.desired)
    changed = workloads(bench, owner)
    changed.replicas = 1
    changed.ensure(found.desired)


def removing(resource: Resource) -> Callable[[Bench, Owner], object]:
    def act(bench: Bench, owner: Owner) -> None:
        found = ResourceRollouts(bench.admin, bench.namespace, lambda: START).spec(owner.name)
        assert found
        DeploymentWorkloads(bench.admin, owner, replicas=0).ensure(found.desired)
        name = owner.object_name(found.desired.revision)
        bench.api.delete(resource, bench.namespace, name)
        with pytest.raises(NotFound):
            bench.admin.get(resource, bench.namespace, name)

    return act


SPLIT = Route((Backend("a" * 10, 10000),))


def routing(kind: str) -> Callable[[Bench, Owner], object]:
    def act(bench: Bench, owner: Owner) -> None:
        resource = HTTP_ROUTES if kind == "HTTPRoute" else GRPC_ROUTES
        cache = Cache(bench.api, {resource: {}}, bench.namespace, lambda *_: None)
        traffic = Traffic.model_validate({"kind": kind, "parentRefs": [{"name": "gateway"}]})
        GatewayRouter(cache, owner, traffic).apply(SPLIT, {})

    return act


def attaching(kind: str) -> Callable[[Bench, Owner], object]:
    def act(bench: Bench, owner: Owner) -> None:
        resource = HTTP_ROUTES if kind == "HTTPRoute" else GRPC_ROUTES
        body = {
            "apiVersion": resource.api,
            "kind": kind,
            "metadata": {"name": f"{owner.name}-api", "namespace": bench.namespace},
            "spec": {"rules": [{"name": "infer"}]},
        }
        route = bench.admin.create(resource, body)
        cache = Cache(bench.api, {resource: {}}, bench.namespace, lambda *_: None)
        cache._stores[resource].put(route)
        reference = {"name": f"{owner.name}-api", "rule": "infer"}
        traffic = Traffic.model_validate({"mode": "Attach", "kind": kind, "routeRef": reference})
        GatewayRouter(cache, owner, traffic).apply(SPLIT, {})

    return act


def remembering(bench: Bench, owner: Owner) -> None:
    cache = Cache(bench.api, {ROLLOUTS: {}}, bench.namespace, lambda *_: None)
    cache._stores[ROLLOUTS].put(bench.admin.get(ROLLOUTS, bench.namespace, owner.name))
    rollouts = ResourceRollouts(cache, bench.namespace, lambda: START)
    rollouts.commit(owner.name, State(phase="stable"), DECISION, rollouts.state(owner.name)[1])


def marking(bench: Bench, owner: Owner) -> None:
    set_mark(bench.api, bench.admin.get(ROLLOUTS, bench.namespace, owner.name), present=True)
    set_mark(bench.api, bench.admin.get(ROLLOUTS, bench.namespace, owner.name), present=False)


def telling(bench: Bench, owner: Owner) -> None:
    heard: list[Manifest] = []

    class Direct:
        def create(self, resource: Resource, body: Manifest) -> Manifest:
            heard.append(bench.api.create(resource, body))
            return heard[0]

    DecisionEvents(Direct(), "test").tell(
        bench.admin.get(ROLLOUTS, bench.namespace, owner.name), DECISION
    )
    assert heard, "no Event"


def mirroring(bench: Bench, _: Owner) -> None:
    """Read whether the Gateway of a shadow step can mirror."""
    gateway(bench.cluster, bench.namespace, *MIRRORS)
    shadow = {"name": "s", "shadow": {"percent": 20}}
    body = manifest(bench.namespace)
    body["spec"]["strategy"]["steps"].insert(0, shadow)
    Mirroring(bench.api, bench.namespace).check(ModelRolloutSpec.model_validate(body["spec"]))


def electing(bench: Bench, _: Owner) -> None:
    election = Election(bench.api, bench.namespace, LEASE, "test")
    bench.admin.delete(LEASES, bench.namespace, LEASE)
    assert election.attempt(), "made"
    assert election.attempt(), "read and renewed"


NEEDS: dict[tuple[str, str], Callable[[Bench, Owner], object]] = {
    **{(r.plural, "list"): listing(r) for r in (ROLLOUTS, POLICIES, DEPLOYMENTS, SERVICES, PODS)},
    **{(r.plural, "watch"): watching(r) for r in (ROLLOUTS, POLICIES, DEPLOYMENTS, SERVICES, PODS)},
    **{(r.plural, "list"): listing(r) for r in (HTTP_ROUTES, GRPC_ROUTES)},
    **{(r.plural, "watch"): watching(r) for r in (HTTP_ROUTES, GRPC_ROUTES)},
    ("modelrollouts", "patch"): marking,
    ("modelrollouts/status", "update"): remembering,
    ("deployments", "create"): deploy,
    ("deployments", "patch"): scale,
    ("deployments", "delete"): removing(DEPLOYMENTS),
    ("services", "create"): deploy,
    ("services", "patch"): scale,
    ("services", "delete"): removing(SERVICES),
    ("httproutes", "create"): routing("HTTPRoute"),
    ("httproutes", "patch"): routing("HTTPRoute"),
    ("httproutes", "update"): attaching("HTTPRoute"),
    ("grpcroutes", "create"): routing("GRPCRoute"),
    ("grpcroutes", "patch"): routing("GRPCRoute"),
    ("grpcroutes", "update"): attaching("GRPCRoute"),
    ("events", "create"): telling,
    ("gateways", "get"): mirroring,
    ("gatewayclasses", "get"): mirroring,
    ("leases", "create"): electing,
    ("leases", "get"): electing,
    ("leases", "update"): electing,
}
"""What the controller does with each verb that it is granted."""


def group_of(resource: str) -> str:
    (group,) = {rule["apiGroups"][0] for rule in rules() if resource in rule["resources"]}
    return str(group)


def granted() -> list[tuple[str, str]]:
    return [(r, v) for rule in rules() for r in rule["resources"] for v in rule["verbs"]]


def without(resource: str, verb: str) -> list[Manifest]:
    """Return the rules less one verb on one resource."""
    kept = []
    for rule in rules():
        for one in rule["resources"]:
            verbs = [v for v in rule["verbs"] if (one, v) != (resource, verb)]
            if verbs:
                kept.append(rule | {"resources": [one], "verbs": verbs})
    return kept


def test_the_table_is_complete(programs):
    assert sorted(granted()) == sorted(NEEDS)


@pytest.mark.parametrize(("resource", "verb"), NEEDS, ids=lambda part: part)
def test_each_verb_is_needed(bench, resource, verb):
    number = list(NEEDS).index((resource, verb))
    act = NEEDS[resource, verb]
    asked = verb, f"{resource}.{group_of(resource)}", LEASE if resource == "leases" else ""
    bench.grant(without(resource, verb))
    eventually(lambda: not bench.may(*asked))
    with pytest.raises((TidemillError, AssertionError)):
        act(bench, bench.owner(f"without-{number}"))
    bench.grant(rules())
    eventually(lambda: bench.may(*asked))
    act(bench, bench.owner(f"with-{number}"))


EXTRA = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("get", "configmaps"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("create", "serviceaccounts/token"),
    ("update", "deployments.apps"),
    ("create", "modelrollouts.serving.tidemill.dev"),
    ("delete", "modelrollouts.serving.tidemill.dev"),
    ("update", "modelrollouts.serving.tidemill.dev"),
    ("patch", "analysispolicies.serving.tidemill.dev"),
    ("delete", "httproutes.gateway.networking.k8s.io"),
    ("update", "gateways.gateway.networking.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("delete", "leases.coordination.k8s.io"),
    ("list", "nodes"),
    ("impersonate", "users"),
]


@pytest.mark.parametrize(("verb", "resource"), EXTRA, ids=lambda part: part)
def test_nothing_else_is_allowed(bench, verb, resource):
    bench.grant(rules())
    eventually(lambda: bench.may("list", "pods"))
    assert not bench.may(verb, resource)


def test_a_lease_of_others_is_out_of_reach(bench):
    bench.grant(rules())
    eventually(lambda: bench.may("update", "leases.coordination.k8s.io", LEASE))
    assert not bench.may("update", "leases.coordination.k8s.io", "kube-scheduler")
