"""What the API server has of Gateways and routes, and what follows for Envoy and for statuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.gateway.routes import Backend, Rejection, Unsupported, translate
from tests.cluster.node.api import Object
from tests.cluster.node.clock import now
from tests.cluster.node.services import Port, Services

CLASS = "tidemill-test"
CONTROLLER = "tidemill.dev/test-gateway"
FEATURES = (
    "GRPCRoute", "Gateway", "HTTPRoute", "HTTPRouteMethodMatching", "HTTPRouteRequestMirror",
    "HTTPRouteRequestPercentageMirror", "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
)  # fmt: skip
GROUP = "gateway.networking.k8s.io"


@dataclass
class World:
    """The objects by UID, as the API server has them."""

    services: Services
    gateways: dict[str, Object] = field(default_factory=dict)
    http_routes: dict[str, Object] = field(default_factory=dict)
    grpc_routes: dict[str, Object] = field(default_factory=dict)

    def ours(self) -> list[Object]:
        """Return the Gateways of this implementation, oldest first."""
        found = [one for one in self.gateways.values() if one["spec"]["gatewayClassName"] == CLASS]
        return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]))

    def endpoints(self, backend: Backend) -> list[tuple[str, int]]:
        """Return the ready endpoints of a backend."""
        name = self._port_name(backend.namespace, backend.service, backend.port) or ""
        return sorted(self.services.endpoints(Port(backend.namespace, backend.service, name)))

    def resolve(self, route: Object, reference: Object) -> Backend | Rejection:
        """Find what a backendRef of a route means."""
        namespace, name = route["metadata"]["namespace"], reference["name"]
        if (reference.get("group", ""), reference.get("kind", "Service")) != ("", "Service"):
            return Rejection(
                "InvalidKind", f"{reference.get('kind')} {name}: only a Service can be"
            )
        if reference.get("namespace", namespace) != namespace:
            return Rejection("RefNotPermitted", f"{name}: only services of its own namespace")
        port = reference.get("port", 0)
        if self._port_name(namespace, name, port) is None:
            return Rejection("BackendNotFound", f"no Service {namespace}/{name} with port {port}")
        return Backend(namespace, name, port, grpc=route["kind"] == "GRPCRoute")

    def _port_name(self, namespace: str, service: str, port: int) -> str | None:
        for one in self.services.services.values():
            if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, service):
                for each in one["spec"].get("ports", []):
                    if each["port"] == port:
                        return str(each.get("name", ""))
        return None


@dataclass
class Listener:
    """One port of one Gateway: its routes by host name, and what is attached."""

    address: str
    port: int
    hosts: dict[str, list[tuple[tuple[Any, ...], Object]]] = field(default_factory=dict)
    attached: dict[str, int] = field(default_factory=dict)
    """Number of routes by the listener's name in the Gateway."""


@dataclass
class Plan:
    """What Envoy should have, and the statuses once it has."""

    listeners: dict[str, list[Listener]] = field(default_factory=dict)
    """By the UID of the Gateway."""
    backends: set[Backend] = field(default_factory=set)
    parents: dict[str, list[Object]] = field(default_factory=dict)
    """status.parents by the UID of the route."""


def plan(world: World, addresses: dict[str, str]) -> Plan:
    """Work out everything anew; `addresses` are the Gateways', by UID."""
    made = Plan()
    gateways = {}
    for gateway in world.ours():
        uid, meta = gateway["metadata"]["uid"], gateway["metadata"]
        gateways[(meta["namespace"], meta["name"])] = gateway
        ports = {one["port"] for one in gateway["spec"]["listeners"] if supported(one)}
        made.listeners[uid] = [Listener(addresses[uid], port) for port in sorted(ports)]
    for uid, route in (world.http_routes | world.grpc_routes).items():
        made.parents[uid] = [
            _attach(world, made, route, parent, gateways[key])
            for parent in route["spec"].get("parentRefs", [])
            if (key := _key(route, parent)) in gateways
        ]
    return made


def supported(listener: Object) -> bool:
    """Return whether a Gateway's listener can be served: plain HTTP, any host name."""
    return listener["protocol"] == "HTTP" and not listener.get("hostname")


def _key(route: Object, parent: Object) -> tuple[str, str]:
    return parent.get("namespace", route["metadata"]["namespace"]), parent["name"]


def _attach(world: World, made: Plan, route: Object, parent: Object, gateway: Object) -> Object:
    """Attach a route to a Gateway; returns its entry of status.parents."""
    generation = route["metadata"]["generation"]
    rejections = list(_rejections(world, route))
    found = [
        one
        for one in gateway["spec"]["listeners"]
        if supported(one)
        and parent.get("sectionName", one["name"]) == one["name"]
        and parent.get("port", one["port"]) == one["port"]
    ]
    allowed = [one for one in found if _allows(one, route, gateway)]
    accepted = Rejection("Accepted", "")
    if not found:
        accepted = Rejection("NoMatchingParent", "no listener of that name and port")
    elif not allowed:
        accepted = Rejection("NotAllowedByListeners", "allowedRoutes has not its namespace")
    try:
        routes = list(translate(route, world.resolve))
    except Unsupported as error:
        accepted = Rejection("UnsupportedValue", f"the test gateway does not know {error}")
    if accepted.reason == "Accepted":
        made.backends |= set(_backends(world, route))
        for one in allowed:
            _add(made.listeners[gateway["metadata"]["uid"]], one, route, routes)
    resolved = rejections[0] if rejections else Rejection("ResolvedRefs", "")
    return {
        "parentRef": parent,
        "controllerName": CONTROLLER,
        "conditions": [
            condition("Accepted", accepted.reason == "Accepted", accepted, generation),
            condition("ResolvedRefs", not rejections, resolved, generation),
        ],
    }


def _allows(listener: Object, route: Object, gateway: Object) -> bool:
    wanted = listener.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same")
    same = route["metadata"]["namespace"] == gateway["metadata"]["namespace"]
    return bool(wanted == "All" or (wanted == "Same" and same))


def _references(route: Object) -> Iterator[Object]:
    for rule in route["spec"].get("rules", []):
        yield from rule.get("backendRefs", [])
        for one in rule.get("filters", []):
            if one["type"] == "RequestMirror":
                yield one["requestMirror"]["backendRef"]


def _rejections(world: World, route: Object) -> Iterator[Rejection]:
    for reference in _references(route):
        if isinstance(found := world.resolve(route, reference), Rejection):
            yield found


def _backends(world: World, route: Object) -> Iterator[Backend]:
    for reference in _references(route):
        if isinstance(found := world.resolve(route, reference), Backend):
            yield found


def _add(
    listeners: list[Listener], wanted: Object, route: Object, routes: list[tuple[Any, Object]]
) -> None:
    listener = next(one for one in listeners if one.port == wanted["port"])
    listener.attached[wanted["name"]] = listener.attached.get(wanted["name"], 0) + 1
    for host in route["spec"].get("hostnames") or ["*"]:
        known = listener.hosts.setdefault(host, [])
        known += [one for one in routes if one not in known]


def condition(kind: str, holds: bool, why: Rejection, generation: int) -> Object:
    """Return a metav1.Condition."""
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": why.reason,
        "message": why.message,
        "observedGeneration": generation,
        "lastTransitionTime": now(),
    }
