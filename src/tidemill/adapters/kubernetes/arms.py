"""The judge's eyes on a cluster: ready servers behind a Service, the weight of Flagger's canary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidemill.adapters.kubernetes.client import Manifest, Objects, Resource
from tidemill.domain.rollout.model import Workload
from tidemill.errors import Unavailable

__all__ = ["Arms"]

SLICES = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
CANARIES = Resource("flagger.app/v1beta1", "Canary", "canaries")
SERVICE = "kubernetes.io/service-name"
PORT_NAME = "http"


class Arms:
    """Implements `ports.rollout.Locator`.

    An arm is `NAMESPACE/SERVICE`, or `HOST:PORT[,HOST:PORT]` for servers that need no cluster.
    """

    def __init__(self, connect: Callable[[], Objects]) -> None:
        """`connect` is called when the first Service is asked for."""
        self._connect = connect
        self._api: Objects | None = None

    def locate(self, arm: str) -> Workload:
        """Return the ready servers of an arm."""
        if "/" not in arm:
            servers = {address: address for address in arm.split(",")}
        else:
            namespace, name = arm.split("/")
            found = self._objects().select(SLICES, namespace, {SERVICE: name})
            servers = {key: address for part in found for key, address in _ready(part, arm)}
        if not servers:
            raise Unavailable(f"the Service {arm} has no ready endpoint")
        return Workload(len(servers), len(servers), arm, servers=servers)

    def weight(self, namespace: str, name: str) -> float:
        """Return the weight that Flagger gives a canary now, percent."""
        canary = self._objects().get(CANARIES, namespace, name)
        return float(canary.get("status", {}).get("canaryWeight", 0))

    def _objects(self) -> Objects:
        if self._api is None:
            self._api = self._connect()
        return self._api


def _ready(part: Manifest, arm: str) -> list[tuple[str, str]]:
    """Return the ready endpoints of a slice: who it is, which no later pod will be, and where."""
    port = _port(part.get("ports") or [], arm)
    found = []
    for endpoint in part.get("endpoints") or []:
        if endpoint.get("conditions", {}).get("ready", True):
            host = endpoint["addresses"][0]
            identity = endpoint.get("targetRef", {}).get("uid", host)
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            found.append((identity, address))
    return found


def _port(ports: list[dict[str, Any]], arm: str) -> int:
    """Return the port named http, or the only one."""
    named = [p["port"] for p in ports if p.get("name") == PORT_NAME] or [p["port"] for p in ports]
    if len(named) != 1:
        names = ", ".join(str(p.get("name")) for p in ports)
        raise Unavailable(f"the Service {arm} has the ports {names}: expected one named http")
    return int(named[0])
