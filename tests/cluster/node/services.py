"""Services and their endpoints, as the API server has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cluster.node.api import Object

DOMAIN = ["svc", "cluster", "local"]
Address = tuple[str, int]


@dataclass(frozen=True)
class Port:
    """One port of a service."""

    namespace: str
    service: str
    name: str


class Services:
    """Answers what the proxy and the name server ask. `services` and `slices` are by UID."""

    def __init__(self, api_server: Address) -> None:
        self.services: dict[str, Object] = {}
        self.slices: dict[str, Object] = {}
        self._api_server = api_server
        self._turn = itertools.count()

    def listening(self) -> dict[Address, Port]:
        """Return each ClusterIP and TCP port that has a ready endpoint.

        The others refuse connections, as those of kube-proxy do.
        """
        found = {}
        for service in self.services.values():
            meta, spec = service["metadata"], service["spec"]
            if spec.get("clusterIP", "None") in ("None", ""):
                continue
            for one in spec.get("ports", []):
                port = Port(meta["namespace"], meta["name"], one.get("name", ""))
                if one.get("protocol", "TCP") == "TCP" and self.endpoints(port):
                    found[(str(spec["clusterIP"]), int(one["port"]))] = port
        return found

    def endpoints(self, port: Port) -> list[Address]:
        """Return the ready endpoints of a port, another one first each time."""
        if (port.namespace, port.service) == ("default", "kubernetes"):
            return [self._api_server]  # EndpointSlices may not hold its loopback address
        found = [
            (address, int(one["port"]))
            for part in self._slices(port.namespace, port.service)
            for one in part.get("ports") or []
            if (one.get("name") or "") == port.name
            for address in _addresses(part, ready_alone=True)
        ]
        start = next(self._turn) % len(found) if found else 0
        return found[start:] + found[:start]

    def resolve(self, name: str) -> list[str] | None:
        """Return the addresses of a DNS name; None if there is no such name."""
        parts = name.lower().rstrip(".").split(".")
        if parts[-3:] != DOMAIN or len(parts) not in (5, 6):
            return None
        *host, service, namespace = parts[:-3]
        for one in self.services.values():
            meta, spec = one["metadata"], one["spec"]
            if (meta["name"], meta["namespace"]) == (service, namespace):
                if spec.get("clusterIP") != "None":
                    return None if host else [str(spec["clusterIP"])]
                return self._headless(namespace, service, host, spec)
        return None

    def _headless(
        self, namespace: str, service: str, host: list[str], spec: Object
    ) -> list[str] | None:
        ready_alone = not spec.get("publishNotReadyAddresses", False)
        found = [
            address
            for part in self._slices(namespace, service)
            for address in _addresses(part, ready_alone, host[0] if host else None)
        ]
        return None if host and not found else found

    def _slices(self, namespace: str, service: str) -> Iterator[Object]:
        for part in self.slices.values():
            meta = part["metadata"]
            owner = meta.get("labels", {}).get("kubernetes.io/service-name")
            if (meta["namespace"], owner) == (namespace, service):
                yield part


def _addresses(part: Object, ready_alone: bool, hostname: str | None = None) -> Iterator[str]:
    for endpoint in part.get("endpoints") or []:
        if ready_alone and not endpoint.get("conditions", {}).get("ready", True):
            continue
        if hostname in (None, endpoint.get("hostname")):
            yield from endpoint["addresses"]
