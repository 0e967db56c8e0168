"""HTTPRoutes and GRPCRoutes as routes of Envoy. Pure: no API, no process.

https://gateway-api.sigs.k8s.io/reference/spec/ (v1); what is not here is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.cluster.node.api import Object

NOT_RESOLVED = "not-resolved"
"""A cluster that never exists: the share of requests that goes there is answered with 500."""
TIMEOUT = "30s"
HEADERS = "RequestHeaderModifier", "ResponseHeaderModifier"


class Unsupported(Exception):
    """The route asks for what this gateway cannot do; it is not accepted."""


@dataclass(frozen=True)
class Backend:
    """A port of a service, and how to speak to it."""

    namespace: str
    service: str
    port: int
    grpc: bool

    @property
    def cluster(self) -> str:
        """Return the name of its cluster in Envoy."""
        protocol = "grpc" if self.grpc else "http"
        return f"{self.namespace}/{self.service}/{self.port}/{protocol}"


@dataclass(frozen=True)
class Rejection:
    """Why a reference does not resolve: reason and message of the condition."""

    reason: str
    message: str


Resolve = Callable[[Object, Object], Backend | Rejection]
"""Finds what a backendRef of a route means."""


def translate(route: Object, resolve: Resolve) -> Iterator[tuple[tuple[Any, ...], Object]]:
    """Yield Envoy's routes of one object, each with its precedence: the least goes first.

    Raises:
        Unsupported: Something in it has no translation.
    """
    meta = route["metadata"]
    age = (meta["creationTimestamp"], meta["namespace"], meta["name"])
    for rule in route["spec"].get("rules", []):
        action = _action(route, rule, resolve)
        for match in rule.get("matches") or [{}]:
            matched = _grpc_match(match) if route["kind"] == "GRPCRoute" else _http_match(match)
            yield (*_specificity(matched), *age), {"match": matched, **action}


def _specificity(match: Object) -> tuple[Any, ...]:
    path = match.get("path") or match.get("path_separated_prefix") or match["prefix"]
    headers = match.get("headers", [])
    method = any(one["name"] == ":method" for one in headers)
    return ("path" not in match, -len(path), not method, -len(headers))


def _http_match(match: Object) -> Object:
    path = match.get("path", {})
    kind, value = path.get("type", "PathPrefix"), path.get("value", "/")
    if match.get("queryParams"):
        raise Unsupported("matches.queryParams")
    found: Object = {"headers": _header_matches(match)}
    if "method" in match:
        found["headers"].append(_exactly(":method", match["method"]))
    if kind == "Exact":
        return found | {"path": value}
    if kind != "PathPrefix":
        raise Unsupported(f"matches.path.type {kind}")
    prefix = value.rstrip("/")
    return found | ({"path_separated_prefix": prefix} if prefix else {"prefix": "/"})


def _grpc_match(match: Object) -> Object:
    method = match.get("method", {})
    if method.get("type", "Exact") != "Exact" or ("method" in method and "service" not in method):
        raise Unsupported("matches.method without an exact service")
    found: Object = {"headers": _header_matches(match)}
    if "method" in method:
        return found | {"path": f"/{method['service']}/{method['method']}"}
    if "service" in method:
        return found | {"path_separated_prefix": f"/{method['service']}"}
    return found | {"prefix": "/"}


def _header_matches(match: Object) -> list[Object]:
    headers = match.get("headers", [])
    if any(one.get("type", "Exact") != "Exact" for one in headers):
        raise Unsupported("matches.headers.type other than Exact")
    return [_exactly(one["name"], one["value"]) for one in headers]


def _exactly(header: str, value: str) -> Object:
    return {"name": header, "string_match": {"exact": value}}


def _action(route: Object, rule: Object, resolve: Resolve) -> Object:
    backends = rule.get("backendRefs", [])
    if any(one.get("filters") for one in backends):
        raise Unsupported("filters of a backendRef")
    weights: dict[str, int] = {}
    for one in backends:
        name = _cluster(resolve(route, one))
        weights[name] = weights.get(name, 0) + one.get("weight", 1)
    changes, mirrors = _filters(route, rule, resolve)
    if not any(weights.values()):
        return changes | {"direct_response": {"status": 500}}
    shares = [{"name": name, "weight": weight} for name, weight in weights.items()]
    timeout = rule.get("timeouts", {}).get("request")
    action: Object = {
        "weighted_clusters": {"clusters": shares},
        "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
        "timeout": f"{seconds(timeout)}s" if timeout else TIMEOUT,
        "request_mirror_policies": mirrors,
    }
    return changes | {"route": action}


def _cluster(found: Backend | Rejection) -> str:
    return found.cluster if isinstance(found, Backend) else NOT_RESOLVED


def _filters(route: Object, rule: Object, resolve: Resolve) -> tuple[Object, list[Object]]:
    changes: Object = {}
    mirrors: list[Object] = []
    for one in rule.get("filters", []):
        if one["type"] == "RequestMirror":
            mirror = one["requestMirror"]
            found = resolve(route, mirror["backendRef"])
            if isinstance(found, Backend):
                fraction = {"default_value": _fraction(mirror)}
                mirrors.append({"cluster": found.cluster, "runtime_fraction": fraction})
        elif one["type"] in HEADERS:
            side = "request" if one["type"] == HEADERS[0] else "response"
            changes |= _header_changes(side, one[f"{side}HeaderModifier"])
        else:
            raise Unsupported(f"filter {one['type']}")
    return changes, mirrors


def _fraction(mirror: Object) -> Object:
    if fraction := mirror.get("fraction"):
        parts = fraction["numerator"] * 10**6 // fraction.get("denominator", 100)
        return {"numerator": parts, "denominator": "MILLION"}
    return {"numerator": mirror.get("percent", 100), "denominator": "HUNDRED"}


def _header_changes(side: str, modifier: Object) -> Object:
    actions = {"set": "OVERWRITE_IF_EXISTS_OR_ADD", "add": "APPEND_IF_EXISTS_OR_ADD"}
    added = [
        {"header": {"key": one["name"], "value": one["value"]}, "append_action": action}
        for kind, action in actions.items()
        for one in modifier.get(kind, [])
    ]
    removed = modifier.get("remove", [])
    return {f"{side}_headers_to_add": added, f"{side}_headers_to_remove": removed}


def seconds(duration: str) -> float:
    """Read a duration of GEP-2257: 1h30m, 10s, 250ms."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"(\d+)(ms|h|m|s)", duration)
    return float(sum(int(number) * units[unit] for number, unit in parts))
