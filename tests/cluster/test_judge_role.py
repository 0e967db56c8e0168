"""The judge's role on a real API server: nothing that it needs is missing, nothing is unneeded."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.cluster.delivery import RULES, until
from tests.cluster.rollouts import bind, client

from tidemill.adapters.kubernetes.arms import Arms
from tidemill.adapters.kubernetes.client import KubeClient
from tidemill.domain.rollout.model import Workload
from tidemill.errors import Refused

GRANTED = yaml.safe_load(RULES.read_text())["namespace"]
CANARY = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "canaries.flagger.app"},
    "spec": {
        "group": "flagger.app",
        "scope": "Namespaced",
        "names": {"kind": "Canary", "listKind": "CanaryList", "plural": "canaries",
                  "singular": "canary"},
        "versions": [
            {"name": "v1beta1", "served": True, "storage": True,
             "schema": {"openAPIV3Schema": {
                 "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
        ],
    },
}  # fmt: skip
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "churn-1", "labels": {"kubernetes.io/service-name": "churn"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}],
    "endpoints": [
        {"addresses": ["10.1.2.3"], "conditions": {"ready": True}},
        {"addresses": ["10.1.2.4"], "conditions": {"ready": False}},
    ],
}


class Bench:
    """A namespace with what the judge looks at, and the API as its account sees it."""

    def __init__(self, cluster: Any, namespace: str, api: KubeClient) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.arms = Arms(lambda: api)
        self.account = cluster.user("judge", namespace)

    def apply(self, *manifests: dict[str, Any]) -> None:
        body = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        where = ("--namespace", self.namespace)
        self.cluster.kubectl("apply", "-f", "-", *where, stdin=json.dumps(body))

    def grant(self, rules: list[dict[str, Any]]) -> None:
        bind(self.cluster, self.namespace, "judge", rules)

    def may(self, verb: str, resource: str) -> bool:
        """Ask the API server as the judge's account; it says yes or no, nothing else."""
        kind, _, part = resource.partition("/")
        asked = ("auth", "can-i", verb, kind, "--namespace", self.namespace)
        within = ("--subresource", part) if part else ()
        told = self.account.kubectl(*asked, *within, check=False).split()
        assert told[:1] in (["yes"], ["no"]), told
        return told[0] == "yes"

    def found(self) -> tuple[Workload, float] | None:
        """Look as the judge does; None when it may not."""
        try:
            servers = self.arms.locate(f"{self.namespace}/churn")
            return servers, self.arms.weight(self.namespace, "churn")
        except Refused:
            return None


@pytest.fixture
def bench(cluster, namespace) -> Iterator[Bench]:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
                    stdin=json.dumps(CANARY))  # fmt: skip
    with client(cluster.user("judge", namespace)) as api:
        made = Bench(cluster, namespace, api)
        until(lambda: "canaries" in cluster.kubectl("api-resources", "-o", "name"), "the kind")
        canary = {"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                  "metadata": {"name": "churn"}, "status": {"canaryWeight": 15}}  # fmt: skip
        made.apply(SLICE, canary)
        yield made


def test_the_role_is_all_that_it_needs(bench):
    assert bench.found() is None
    bench.grant(GRANTED)
    servers, weight = until(bench.found, "the role in force")
    assert servers.servers == {"10.1.2.3": "10.1.2.3:8080"}
    assert weight == 15


@pytest.mark.parametrize("rule", range(len(GRANTED)))
def test_without_any_of_its_verbs_something_is_not_found(bench, rule):
    (_,) = GRANTED[rule]["verbs"]
    bench.grant(GRANTED)
    until(bench.found, "the role in force")
    less = copy.deepcopy(GRANTED)
    del less[rule]
    bench.grant(less)
    until(lambda: bench.found() is None, "the refusal")


EXTRA = [
    ("get", "endpointslices.discovery.k8s.io"),
    ("watch", "endpointslices.discovery.k8s.io"),
    ("update", "endpointslices.discovery.k8s.io"),
    ("list", "canaries.flagger.app"),
    ("patch", "canaries.flagger.app"),
    ("update", "canaries.flagger.app/status"),
    ("get", "secrets"),
    ("get", "configmaps"),
    ("list", "pods"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("create", "serviceaccounts/token"),
    ("list", "services"),
    ("patch", "deployments.apps"),
    ("list", "modelrollouts.serving.tidemill.dev"),
    ("patch", "modelrollouts.serving.tidemill.dev"),
    ("update", "httproutes.gateway.networking.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("list", "nodes"),
    ("impersonate", "users"),
]


@pytest.mark.parametrize(("verb", "resource"), EXTRA, ids=lambda part: part)
def test_nothing_else_is_allowed(bench, verb, resource):
    bench.grant(GRANTED)
    until(lambda: bench.may("list", "endpointslices.discovery.k8s.io"), "the role in force")
    assert not bench.may(verb, resource)
