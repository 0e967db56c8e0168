"""The split of requests on a real API server; the Gateway is played."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.cluster.rollouts import accept, owner

from tidemill.adapters.kubernetes.client import (
    GRPC_ROUTES,
    HTTP_ROUTES,
    KubeClient,
    Manifest,
    Resource,
)
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.adapters.kubernetes.pods import SHADOW_PORT
from tidemill.adapters.kubernetes.routes import GatewayRouter
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.domain.rollout.model import Backend, Route
from tidemill.errors import Conflict, Unavailable

NAME = "flight-delay"
OLD, NEW = "a" * 10, "b" * 10
SPLIT = Route((Backend(OLD, 9500), Backend(NEW, 500)))
KINDS = [HTTP_ROUTES, GRPC_ROUTES]


@pytest.fixture
def owned(api, namespace) -> Owner:
    return owner(api, namespace)


def router(api: Any, owned: Owner, told: list[str] | None = None, **traffic: Any) -> GatewayRouter:
    wanted = {"parentRefs": [{"name": "gateway"}]} | traffic
    repaired = told.append if told is not None else pytest.fail
    return GatewayRouter(api, owned, Traffic.model_validate(wanted), repaired)


@pytest.mark.parametrize("resource", KINDS, ids=lambda r: r.kind)
def test_a_route_of_its_own_is_in_force_once_it_is_taken_up(api, owned, resource):
    gateway = router(api, owned, kind=resource.kind, hostnames=["models.example.com"])
    assert gateway.observe().problem == f"there is no {resource.kind} {NAME}"
    gateway.apply(SPLIT, {})
    assert gateway.observe().problem == "Gateway gateway has not answered"
    accept(api, resource, NAME, owned.namespace)
    assert gateway.observe() == SPLIT
    gateway.apply(Route((Backend(OLD, 10000), Backend(NEW, 0))), {})
    assert "has not taken up generation 2" in gateway.observe().problem
    accept(api, resource, NAME, owned.namespace)
    assert gateway.observe() == Route((Backend(OLD, 10000), Backend(NEW, 0)))
    gateway.apply(Route((Backend(OLD, 10000),)), {})
    found = api.get(resource, owned.namespace, NAME)
    assert [b["name"] for b in found["spec"]["rules"][0]["backendRefs"]] == [f"{NAME}-{OLD}"]


@pytest.mark.parametrize("refused", ["Accepted", "ResolvedRefs"])
def test_a_route_that_is_refused_is_not_in_force(api, owned, refused):
    gateway = router(api, owned)
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace, **{refused: "BackendNotFound"})
    assert gateway.observe() == Route()
    assert gateway.observe().problem == f"Gateway gateway: not {refused}: BackendNotFound: "


def test_every_parent_must_have_taken_it_up(api, owned):
    parents = [{"name": "one"}, {"name": "two", "sectionName": "https"}]
    gateway = router(api, owned, parentRefs=parents)
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    found = api.get(HTTP_ROUTES, owned.namespace, NAME)
    found["status"]["parents"] = found["status"]["parents"][:1]
    api.replace(HTTP_ROUTES, found, "status")
    assert gateway.observe().problem == "Gateway two has not answered"


def test_an_edit_by_hand_is_taken_back_and_said(cluster, api, owned):
    told: list[str] = []
    gateway = router(api, owned, told)
    gateway.apply(SPLIT, {})
    by_hand(cluster, owned)
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    assert gateway.observe() != SPLIT
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    assert gateway.observe() == SPLIT
    (what,) = told
    assert what.startswith(f"HTTPRoute {NAME}: it was edited (.spec.rules: conflict with ")
    assert '"kubectl-patch"' in what
    assert f"with the backends {NAME}-{OLD} 9500, {NAME}-{NEW} 9000; it was taken back" in what


def test_what_others_own_of_a_route_stays_and_is_no_repair(cluster, api, owned):
    told: list[str] = []
    gateway = router(api, owned, told)
    gateway.apply(SPLIT, {})
    patch = '[{"op": "add", "path": "/spec/hostnames", "value": ["late.example.com"]}]'
    where = ("httproute", NAME, "-n", owned.namespace, "--type=json", "-p", patch)
    cluster.kubectl("patch", *where)
    gateway.apply(SPLIT, {})
    found = api.get(HTTP_ROUTES, owned.namespace, NAME)
    assert (found["spec"]["hostnames"], told) == (["late.example.com"], [])


def by_hand(cluster: Any, owned: Owner) -> None:
    """Give the canary another weight, as a person does."""
    patch = '[{"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 9000}]'
    where = ("httproute", NAME, "-n", owned.namespace, "--type=json", "-p", patch)
    cluster.kubectl("patch", *where)


def test_an_edit_is_said_by_a_controller_that_has_just_started(cluster, api, owned):
    router(api, owned).apply(SPLIT, {})
    told: list[str] = []
    by_hand(cluster, owned)
    router(api, owned, told).apply(Route((Backend(OLD, 10000), Backend(NEW, 0))), {})
    assert '"kubectl-patch"' in "".join(told)


def test_a_route_that_was_deleted_is_made_again_and_said(api, owned):
    told: list[str] = []
    gateway = router(api, owned, told)
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    api.delete(HTTP_ROUTES, owned.namespace, NAME)
    assert gateway.observe() != SPLIT
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    assert gateway.observe() == SPLIT
    assert told == [f"HTTPRoute {NAME}: it was deleted; it was taken back"]


def test_nothing_is_written_when_nothing_changed(api, owned):
    class ReadOnlyAfterwards:
        writes = 0

        def apply(self, *arguments: Any, **options: bool) -> Manifest:
            ReadOnlyAfterwards.writes += 1
            return api.apply(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(api, name)

    gateway = router(ReadOnlyAfterwards(), owned)
    for _ in range(3):
        gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    gateway.apply(SPLIT, {})
    assert ReadOnlyAfterwards.writes == 1


LEGACY = {"group": "", "kind": "Service", "name": "legacy", "port": 80, "weight": 3}
FILTER = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [
    {"name": "x-team", "value": "ml"}]}}  # fmt: skip
MATCH = {
    "HTTPRoute": {"path": {"type": "PathPrefix", "value": "/v2"}},
    "GRPCRoute": {"method": {"type": "Exact", "service": "inference.GRPCInferenceService"}},
}


def foreign(api: KubeClient, namespace: str, resource: Resource) -> Manifest:
    """Create a route that a platform team owns, with more in it than we know of."""
    rules = [
        {"name": "docs", "backendRefs": [LEGACY | {"name": "docs"}], "filters": [FILTER]},
        {
            "name": "infer",
            "matches": [MATCH[resource.kind]],
            "filters": [FILTER],
            "backendRefs": [LEGACY | {"filters": [FILTER]}],
        },
    ]
    return api.create(
        resource,
        {
            "apiVersion": resource.api,
            "kind": resource.kind,
            "metadata": {
                "name": "api",
                "namespace": namespace,
                "labels": {"team": "platform"},
                "annotations": {"argocd.argoproj.io/sync-wave": "3"},
            },
            "spec": {
                "parentRefs": [{"name": "gateway"}],
                "hostnames": ["api.example.com"],
                "rules": rules,
            },
        },
    )


def attached(
    api: Any, owned: Owner, resource: Resource = HTTP_ROUTES, told: list[str] | None = None
) -> GatewayRouter:
    reference = {"name": "api", "rule": "infer"}
    return router(
        api, owned, told, mode="Attach", kind=resource.kind, parentRefs=None, routeRef=reference
    )


def test_our_backends_that_its_owner_took_out_are_put_back_and_said(api, owned):
    before, told = foreign(api, owned.namespace, HTTP_ROUTES), []
    gateway = attached(api, owned, told=told)
    gateway.apply(SPLIT, {})
    found = api.get(HTTP_ROUTES, owned.namespace, "api")
    api.replace(HTTP_ROUTES, found | {"spec": before["spec"]})
    gateway.apply(SPLIT, {})
    gateway.apply(SPLIT, {})
    assert told == [
        "HTTPRoute api: our backends were edited, with the backends docs 3, legacy 3; "
        "it was taken back"
    ]


def without_ours(route: Manifest) -> Manifest:
    """Return a route without our backends and what every write changes."""
    bare = copy.deepcopy(route)
    for rule in bare["spec"]["rules"]:
        rule["backendRefs"] = [
            b for b in rule["backendRefs"] if not b["name"].startswith(f"{NAME}-")
        ]
    for field in ("generation", "resourceVersion", "managedFields"):
        bare["metadata"].pop(field)
    bare.pop("status", None)
    return bare


@pytest.mark.parametrize("resource", KINDS, ids=lambda r: r.kind)
def test_of_a_foreign_route_only_our_weights_change(api, owned, resource):
    before = foreign(api, owned.namespace, resource)
    gateway = attached(api, owned, resource)
    for route in (
        SPLIT,
        Route((Backend(OLD, 5000), Backend(NEW, 5000))),
        Route((SPLIT.backends[1],)),
    ):
        gateway.apply(route, {})
        found = api.get(resource, owned.namespace, "api")
        assert without_ours(found) == without_ours(before)
        accept(api, resource, "api", owned.namespace)
        assert gateway.observe() == route
    gateway.release()
    after = api.get(resource, owned.namespace, "api")
    assert after["spec"] == before["spec"]
    assert "ownerReferences" not in after["metadata"]


def test_our_backends_keep_what_others_put_on_them(api, owned):
    foreign(api, owned.namespace, HTTP_ROUTES)
    gateway = attached(api, owned)
    gateway.apply(SPLIT, {})
    found = api.get(HTTP_ROUTES, owned.namespace, "api")
    found["spec"]["rules"][1]["backendRefs"][1]["filters"] = [FILTER]
    api.replace(HTTP_ROUTES, found)
    gateway.apply(Route((Backend(OLD, 1), Backend(NEW, 9999))), {})
    ours = api.get(HTTP_ROUTES, owned.namespace, "api")["spec"]["rules"][1]["backendRefs"][1]
    assert (ours["weight"], ours["filters"]) == (1, [FILTER])


def edit(api: KubeClient, namespace: str, mark: str) -> None:
    """Annotate the route."""
    found = api.get(HTTP_ROUTES, namespace, "api")
    found["metadata"]["annotations"]["edit"] = mark
    api.replace(HTTP_ROUTES, found)


class Contended:
    """The platform team edits the same route between our reading and our writing."""

    def __init__(self, api: KubeClient, times: int) -> None:
        self.api, self.times = api, times

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        found = self.api.get(resource, namespace, name)
        if self.times:
            self.times -= 1
            edit(self.api, namespace, str(self.times))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


def test_an_edit_at_the_same_time_is_kept(api, owned):
    foreign(api, owned.namespace, HTTP_ROUTES)
    gateway = attached(Contended(api, 1), owned)
    with pytest.raises(Conflict):
        gateway.apply(SPLIT, {})
    gateway.apply(SPLIT, {})
    found = api.get(HTTP_ROUTES, owned.namespace, "api")
    assert found["metadata"]["annotations"]["edit"] == "0"
    assert len(found["spec"]["rules"][1]["backendRefs"]) == 3


def test_a_rule_that_vanished_is_said(api, owned):
    gateway = attached(api, owned)
    with pytest.raises(Unavailable, match="not found"):
        gateway.apply(SPLIT, {})
    gateway.release()
    found = foreign(api, owned.namespace, HTTP_ROUTES)
    found["spec"]["rules"][1]["name"] = "predict"
    api.replace(HTTP_ROUTES, found)
    with pytest.raises(Unavailable, match="no rule named infer, it has: docs, predict"):
        gateway.apply(SPLIT, {})
    assert "no rule named infer" in gateway.observe().problem
    gateway.release()


MIRRORED = Route((Backend(OLD, 10000), Backend(NEW, 0)), mirror=Backend(NEW, 2000))


def test_requests_are_mirrored_to_the_port_for_shadows(api, owned):
    gateway = router(api, owned)
    gateway.apply(MIRRORED, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    assert gateway.observe() == MIRRORED
    (rule,) = api.get(HTTP_ROUTES, owned.namespace, NAME)["spec"]["rules"]
    (mirror,) = rule["filters"]
    assert mirror["requestMirror"]["backendRef"]["name"] == f"{NAME}-{NEW}"
    assert mirror["requestMirror"]["backendRef"]["port"] == SHADOW_PORT
    assert mirror["requestMirror"]["percent"] == 20
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, NAME, owned.namespace)
    assert gateway.observe() == SPLIT
    assert "filters" not in api.get(HTTP_ROUTES, owned.namespace, NAME)["spec"]["rules"][0]


def test_the_filters_of_a_foreign_rule_stay_beside_our_mirror(api, owned):
    before = foreign(api, owned.namespace, HTTP_ROUTES)
    gateway = attached(api, owned)
    gateway.apply(MIRRORED, {})
    accept(api, HTTP_ROUTES, "api", owned.namespace)
    assert gateway.observe() == MIRRORED
    rules = api.get(HTTP_ROUTES, owned.namespace, "api")["spec"]["rules"]
    assert [entry["type"] for entry in rules[1]["filters"]] == [FILTER["type"], "RequestMirror"]
    assert rules[0] == before["spec"]["rules"][0]
    gateway.apply(SPLIT, {})
    assert without_ours(api.get(HTTP_ROUTES, owned.namespace, "api")) == without_ours(before)
    gateway.apply(MIRRORED, {})
    gateway.release()
    assert api.get(HTTP_ROUTES, owned.namespace, "api")["spec"] == before["spec"]


def test_a_mirror_of_somebody_else_is_not_ours(api, owned):
    found = foreign(api, owned.namespace, HTTP_ROUTES)
    other = {"group": "", "kind": "Service", "name": "audit", "port": 80}
    theirs = {"type": "RequestMirror", "requestMirror": {"backendRef": other}}
    found["spec"]["rules"][1]["filters"] = [theirs]
    api.replace(HTTP_ROUTES, found)
    gateway = attached(api, owned)
    gateway.apply(SPLIT, {})
    accept(api, HTTP_ROUTES, "api", owned.namespace)
    assert gateway.observe() == SPLIT
    assert api.get(HTTP_ROUTES, owned.namespace, "api")["spec"]["rules"][1]["filters"] == [theirs]
