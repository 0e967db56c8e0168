"""Envoy's files: what is asked for is what is read back, and no route names an unknown server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.envoy import EnvoyRouter, envoy_spec
from tidemill.domain.rollout.model import Backend, Route, shadow_of
from tidemill.errors import Unavailable
from tidemill.settings.serving import GatewaySettings

STABLE = Route((Backend("v1", 10000), Backend("v2", 0)))
SHADOW = Route((Backend("v1", 10000), Backend("v2", 0)), mirror=Backend("v2", 2000))
SPLIT = Route((Backend("v1", 5000), Backend("v2", 5000)))
ADDRESSES = {
    "v1": "127.0.0.1:1",
    "v2": "127.0.0.1:2",
    shadow_of("v1"): "127.0.0.1:3",
    shadow_of("v2"): "127.0.0.1:4",
}


class PlayedEnvoy:
    """Takes the files up when it is told to; refuses a route to a cluster that it does not know."""

    def __init__(self, folder: Path) -> None:
        envoy_spec(folder, GatewaySettings())
        self.folder = folder
        self.clusters: list[Any] = []
        self.routes: list[Any] = []
        transport = httpx.MockTransport(self._answer)
        self.client = httpx.Client(transport=transport)
        self.router = EnvoyRouter(folder, "http://admin", self.client)

    def take_up(self) -> None:
        self.clusters = self._read("clusters.json")
        self.routes = self._read("routes.json")
        known = {cluster["name"] for cluster in self.clusters}
        assert self.named() <= known

    def named(self) -> set[str]:
        found = set()
        for config in self.routes:
            action = config["virtual_hosts"][0]["routes"][0].get("route", {})
            found |= {c["name"] for c in action.get("weighted_clusters", {}).get("clusters", [])}
            found |= {policy["cluster"] for policy in action.get("request_mirror_policies", [])}
        return found

    def reach(self, route: Route) -> None:
        """Apply until it is in force, as the controller does look by look."""
        for _ in range(4):
            self.router.apply(route, ADDRESSES)
            self.take_up()
        assert self.router.observe() == route

    def _read(self, name: str) -> list[Any]:
        return json.loads((self.folder / name).read_text())["resources"]

    def _answer(self, asked: httpx.Request) -> httpx.Response:
        if asked.url.params["resource"] == "dynamic_route_configs":
            return httpx.Response(200, json={"configs": [{"route_config": r} for r in self.routes]})
        return httpx.Response(200, json={"configs": [{"cluster": c} for c in self.clusters]})


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[PlayedEnvoy]:
    made = PlayedEnvoy(tmp_path)
    yield made
    made.client.close()


def test_a_mirror_goes_to_the_port_for_shadows(envoy: PlayedEnvoy) -> None:
    envoy.reach(STABLE)
    envoy.reach(SHADOW)
    action = envoy.routes[0]["virtual_hosts"][0]["routes"][0]["route"]
    (policy,) = action["request_mirror_policies"]
    assert policy["runtime_fraction"]["default_value"] == {
        "numerator": 2000, "denominator": "TEN_THOUSAND"
    }  # fmt: skip
    (cluster,) = [c for c in envoy.clusters if c["name"] == policy["cluster"]]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"]["port_value"] == 4
    assert [c["name"] for c in action["weighted_clusters"]["clusters"]] == ["revision-v1"]


def test_a_server_is_known_before_it_is_mirrored_to_and_until_it_no_longer_is(
    envoy: PlayedEnvoy,
) -> None:
    envoy.reach(STABLE)
    envoy.router.apply(SHADOW, ADDRESSES)
    assert envoy.router.observe() == STABLE
    envoy.take_up()
    assert envoy.router.observe() == STABLE, "the cluster is there, the route comes next"
    envoy.reach(SHADOW)
    envoy.router.apply(SPLIT, ADDRESSES)
    clusters = {cluster["name"] for cluster in envoy._read("clusters.json")}
    assert "revision-shadow-v2" in clusters, "what is mirrored now still has its way"
    envoy.reach(SPLIT)
    assert {cluster["name"] for cluster in envoy.clusters} == {"revision-v1", "revision-v2"}


def test_a_server_without_a_port_for_shadows_is_said(envoy: PlayedEnvoy) -> None:
    addresses = {name: at for name, at in ADDRESSES.items() if name != shadow_of("v2")}
    with pytest.raises(Unavailable, match="no address of shadow-v2 is known"):
        envoy.router.apply(SHADOW, addresses)


ROUTES = st.builds(
    lambda weight, mirror: Route(
        (Backend("v1", 10000 - weight), Backend("v2", weight)),
        mirror=Backend("v2", mirror) if mirror and not weight else None,
    ),
    st.sampled_from([0, 1, 5000, 10000]),
    st.sampled_from([0, 100, 10000]),
)


@given(routes=st.lists(ROUTES, min_size=1, max_size=4))
def test_any_route_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, routes: list[Route]
) -> None:
    envoy = PlayedEnvoy(tmp_path_factory.mktemp("envoy"))
    for route in routes:
        envoy.reach(route)
    envoy.client.close()
