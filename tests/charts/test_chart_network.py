"""NetworkPolicies: default deny, and the edges of one table, which the docs show too."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.charts.profiles import EVERYTHING, RENDERED
from tests.charts.rendering import CHART, NEEDED, ROOT, Object, Refused, merged, render
from tests.charts.values import defaults

from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.adapters.kubernetes.pods import GRPC_PORT, PORT, SHADOW_PORT

TABLE = yaml.safe_load((CHART / "files/network-edges.yaml").read_text())
PEERS = {
    name: {"addresses": [{"ipBlock": {"cidr": f"192.0.2.{number}/32"}}]}
    | ({"ports": peer["ports"]} if "ports" in peer else {})
    for number, (name, peer) in enumerate(defaults()["networkPolicies"]["peers"].items())
}
"""A place of its own for every peer."""
Edge = tuple[str, str, int]


def policies(objects: list[Object]) -> dict[str, Object]:
    """Return the specification of each part's policy, by part."""
    return {
        found["metadata"]["labels"]["app.kubernetes.io/component"]: found["spec"]
        for found in objects
        if found["kind"] == "NetworkPolicy"
    }


def names(address: dict[str, Any]) -> str:
    """Return whom a rule's address means: a part, or a peer."""
    if "ipBlock" in address:
        return next(name for name, peer in PEERS.items() if peer["addresses"] == [address])
    selector = address["podSelector"]
    if "matchExpressions" in selector:
        assert selector["matchExpressions"] == [{"key": ROLLOUT, "operator": "Exists"}]
        return "servers"
    assert selector["matchLabels"]["app.kubernetes.io/instance"] == "tidemill"
    return str(selector["matchLabels"]["app.kubernetes.io/component"])


def opened(objects: list[Object]) -> tuple[set[Edge], set[Edge]]:
    """Return the edges that the callers' policies open, and those that the callees' do."""
    out: set[Edge] = set()
    into: set[Edge] = set()
    for part, spec in policies(objects).items():
        assert spec["policyTypes"] == ["Ingress", "Egress"], "what no rule allows is refused"
        for rule in spec["egress"]:
            out |= {(part, names(a), p["port"]) for a in rule["to"] for p in rule["ports"]}
        for rule in spec["ingress"]:
            into |= {(names(a), part, p["port"]) for a in rule["from"] for p in rule["ports"]}
    return out, into


def expected(absent: str) -> set[Edge]:
    """Return the table's edges but those of one end, with a peer's ports where it is called."""
    return {
        (edge["from"], edge["to"], port)
        for edge in TABLE["edges"]
        if absent not in (edge["from"], edge["to"])
        for port in ([edge["port"]] if "port" in edge else PEERS[edge["to"]]["ports"])
    }


OWN_MLFLOW = {
    "mlflow": {"enabled": False},
    "settings": EVERYTHING["settings"] | {"registry": {"uri": "https://mlflow.example.com"}},
}


@pytest.mark.parametrize(
    ("values", "absent"), [({}, "registry"), (OWN_MLFLOW, "mlflow")], ids=["chart's", "own"]
)
def test_the_policies_are_the_table(values: dict[str, Any], absent: str) -> None:
    """Whether MLflow is the chart's or there already: who needs one reaches one."""
    out, into = opened(render(EVERYTHING | values | {"networkPolicies": {"peers": PEERS}}))
    parts, peers = set(TABLE["parts"]), set(TABLE["peers"])
    assert out == {edge for edge in expected(absent) if edge[0] in parts}
    assert into == {edge for edge in expected(absent) if edge[1] in parts}
    assert PEERS.keys() == peers


def test_who_asks_mlflow_asks_an_own_one_too() -> None:
    callers = {
        name: {edge["from"] for edge in TABLE["edges"] if edge["to"] == name}
        for name in ("mlflow", "registry")
    }
    # People and pipelines are no parts; `helm test` asks the release's own alone.
    assert callers["registry"] == callers["mlflow"] - {"people", "pipelines", "check"}


TOKENS = {"jwt": {"jwks": "https://id.example.com:8443/k"}, "controller_key": "env:CONTROLLER_KEY"}
CALLED = [
    ({"storage": {"database": "postgresql+psycopg://t@db.example.com:6432/t"}}, "database", "6432"),
    ({"storage": {"endpoint_url": "http://s3.example.com:9999"}}, "objects", "9999"),
    ({"serving": {"auth": TOKENS}}, "identity", "8443"),
    ({"serving": {"traces": {"endpoint": "http://otel.example.com/v1/traces"}}}, "traces", "80"),
    ({"execution": {"kfp": {"host": "https://kfp.example.com"}}}, "pipelines", "443"),
    ({"rollout": {"prometheus_url": "http://p.example.com:9999/x"}}, "prometheus", "9999"),
    ({"features": {"online": {"port": 6380}}}, "online", "6380"),
]


@pytest.mark.parametrize(("settings", "peer", "port"), CALLED, ids=[peer for _, peer, _ in CALLED])
def test_an_address_whose_port_is_closed_is_refused(
    settings: dict[str, Any], peer: str, port: str
) -> None:
    given = merged(EVERYTHING, {"settings": settings})
    with pytest.raises(Refused, match=f"port {port}, and networkPolicies.peers.{peer}.ports"):
        render(given)
    assert render(given | {"networkPolicies": {"enabled": False}})
    assert render(given | {"networkPolicies": {"peers": {peer: {"ports": [int(port)]}}}})


def test_where_no_store_is_named_its_port_is_nobodys() -> None:
    ports = {"networkPolicies": {"peers": {"online": {"ports": [6380]}}}}
    named = merged(EVERYTHING, ports | {"settings": {"features": {"online": {"host": "redis"}}}})
    with pytest.raises(Refused, match=r"port 6379, and networkPolicies\.peers\.online\.ports"):
        render(named)
    assert render(NEEDED | ports | {"features": {"enabled": False}})


def test_an_own_mlflow_behind_a_closed_port_is_refused() -> None:
    uri = {"settings": {"registry": {"uri": "http://mlflow.example.com:8080"}}}
    with pytest.raises(Refused, match="port 8080, and networkPolicies"):
        render(merged(EVERYTHING, merged(OWN_MLFLOW, uri)))


def test_every_pod_has_a_policy() -> None:
    objects = render(EVERYTHING)
    parts = {
        found["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for found in objects
        if "template" in found.get("spec", {})
    } | {"labels", "monitor", "check", "servers"}
    assert policies(objects).keys() == parts == set(TABLE["parts"])


@pytest.mark.parametrize("name", RENDERED)
def test_a_part_that_does_not_run_has_none(name: str) -> None:
    objects = render(RENDERED[name])
    accounts = {
        found["metadata"]["labels"]["app.kubernetes.io/component"]
        for found in objects
        if found["kind"] == "ServiceAccount"
    }
    assert policies(objects).keys() == accounts | {"servers"}


def test_names_are_asked_over_udp_too() -> None:
    (rule,) = [
        rule
        for rule in policies(render(EVERYTHING))["controller"]["egress"]
        if {"port": 53, "protocol": "UDP"} in rule["ports"]
    ]
    assert {"port": 53, "protocol": "TCP"} in rule["ports"]


def test_without_an_address_there_is_no_edge() -> None:
    none = {name: {"addresses": []} for name in PEERS}
    out, into = opened(render(EVERYTHING | {"networkPolicies": {"peers": none}}))
    assert {end for edge in out | into for end in edge[:2]} <= set(TABLE["parts"])


@pytest.mark.parametrize("scope", ["Namespace", "Cluster"])
def test_servers_of_every_namespace_belong_to_a_controller_of_the_cluster(scope: str) -> None:
    found = policies(render(EVERYTHING | {"controller": {"scope": scope}}))
    called = [a for rule in found["controller"]["egress"] for a in rule["to"]]
    calling = [a for rule in found["mlflow"]["ingress"] for a in rule["from"]]
    for ends in (called, calling):
        servers = [a for a in ends if "podSelector" in a and names(a) == "servers"]
        assert {"namespaceSelector" in one for one in servers} == {scope == "Cluster"}


def test_ports_are_those_of_the_servers() -> None:
    ports = {edge["port"] for edge in TABLE["edges"] if edge["to"] == "servers"}
    assert ports == {PORT, GRPC_PORT, SHADOW_PORT}


def test_the_docs_show_the_table() -> None:
    page = (ROOT / "docs/kubernetes/install.md").read_text()
    rows = set(re.findall(r"^\| (\w+) \| (\w+) \| ([\d–]+) \| (.+) \|$", page, re.M))
    assert rows == {
        (edge["from"], edge["to"], str(edge.get("port", "–")), edge["why"])
        for edge in TABLE["edges"]
        if edge["to"] != "dns"
    }
