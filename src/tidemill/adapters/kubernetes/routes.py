"""The split of requests as HTTPRoute or GRPCRoute of the Gateway API.

`rules` and `backendRefs` of a route are atomic lists: server-side apply takes all of a route or
nothing. So a route of the rollout's own is applied, one of somebody else is read, changed in the
weights of our own backends and written back at the version that was read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from tidemill.adapters.kubernetes.client import GRPC_ROUTES, HTTP_ROUTES, Manifest, Objects
from tidemill.adapters.kubernetes.owned import Applied, Owner
from tidemill.adapters.kubernetes.pods import GRPC_PORT, PORT, SHADOW_PORT
from tidemill.adapters.kubernetes.traffic import Traffic
from tidemill.domain.rollout.model import Backend, Route
from tidemill.errors import NotFound, Refused, Unavailable

__all__ = ["RULE", "GatewayRouter"]

RULE = "infer"
"""Name of the rule in an owned route."""
KINDS = {resource.kind: resource for resource in (HTTP_ROUTES, GRPC_ROUTES)}


class GatewayRouter:
    """Implements `ports.rollout.Router` for one rollout."""

    def __init__(
        self,
        objects: Objects,
        owner: Owner,
        traffic: Traffic,
        repaired: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """`repaired` is told what others had made of the route whenever it was taken back."""
        self._objects = objects
        self._repaired = repaired
        self._written: Route | None = None
        self._owner = owner
        self._traffic = traffic
        self._resource = KINDS[traffic.kind]
        self._applied = Applied(objects)
        attached = traffic.route_ref
        self._name = attached.name if attached else owner.name
        self._rule = attached.rule if attached else RULE

    def apply(self, route: Route, addresses: Mapping[str, str]) -> None:  # noqa: ARG002 - backends are Services, their names follow from the revision
        """Ask for a route; raises Unavailable when it cannot be written.

        Raises Conflict when an attached one was written meanwhile: the next look has it.
        """
        try:
            if self._traffic.mode == "Owned":
                self._make(route)
            else:
                self._edit(route)
        except (NotFound, Refused) as error:
            raise Unavailable(error.message, hint=error.hint) from error

    def release(self) -> None:
        """Take the rollout's backends out of an attached route: it is as its owner made it."""
        if self._traffic.mode == "Attach":
            try:
                self._edit(Route())
            except (NotFound, Refused):
                return

    def observe(self) -> Route:
        """Return the route in force: its backends, once every parent has taken up this generation.

        Else a route without backends that says what is missing.
        """
        try:
            found = self._objects.get(self._resource, self._owner.namespace, self._name)
        except NotFound:
            return Route(problem=f"there is no {self._traffic.kind} {self._name}")
        try:
            rule = self._named(found)
        except Refused as error:
            return Route(problem=error.message)
        if problem := _unsettled(found):
            return Route(problem=problem)
        weights = {
            revision: entry.get("weight", 1)
            for entry in rule.get("backendRefs", [])
            if (revision := self._mine(entry))
        }
        mirrors = [m for entry in rule.get("filters", []) if (m := self._mirrored(entry))]
        backends = tuple(Backend(r, weights[r]) for r in sorted(weights))
        return Route(backends, mirror=mirrors[0] if mirrors else None)

    def _make(self, route: Route) -> None:
        """Apply a route of our own."""
        try:
            weights = _weights(self._objects.get(self._resource, self._owner.namespace, self._name))
        except NotFound:
            weights = ""
        if found := self._applied.apply(self._resource, self._owned(route)):
            self._tell(found, weights)

    def _tell(self, found: str, weights: str) -> None:
        had = f", with the backends {weights}" if weights else ""
        self._repaired(f"{self._traffic.kind} {self._name}: {found}{had}; it was taken back")

    def _owned(self, route: Route) -> Manifest:
        spec: dict[str, Any] = {
            "parentRefs": [
                ref.model_dump(mode="json", by_alias=True, exclude_none=True)
                for ref in self._traffic.parent_refs or ()
            ],
            "rules": [{"name": RULE, "backendRefs": [self._backend(b) for b in route.backends]}],
        }
        if route.mirror:
            spec["rules"][0]["filters"] = [self._mirror(route.mirror)]
        if self._traffic.hostnames:
            spec["hostnames"] = list(self._traffic.hostnames)
        return {
            "apiVersion": self._resource.api,
            "kind": self._resource.kind,
            "metadata": self._owner.metadata(self._name),
            "spec": spec,
        }

    def _edit(self, route: Route) -> None:
        """Change our backends in somebody else's route and nothing besides.

        Raises Conflict when it was edited since it was read: the next look reads it anew.
        """
        found = self._objects.get(self._resource, self._owner.namespace, self._name)
        changed = copy.deepcopy(found)
        rule = self._named(changed)
        rule["backendRefs"] = self._weighed(rule.get("backendRefs", []), route)
        if filters := self._filters(rule.pop("filters", []), route):
            rule["filters"] = filters
        if changed != found:
            self._objects.replace(self._resource, changed)
            if self._written == route:
                self._tell("our backends were edited", _weights(found))
        self._written = route

    def _weighed(self, backends: list[Manifest], route: Route) -> list[Manifest]:
        """Return backends with ours as the route says: in their places, new ones at the end."""
        wanted = {backend.revision: backend for backend in route.backends}
        kept = []
        for entry in backends:
            revision = self._mine(entry)
            if revision is None:
                kept.append(entry)
            elif revision in wanted:
                kept.append(entry | {"weight": wanted.pop(revision).weight})
        return kept + [self._backend(backend) for backend in wanted.values()]

    def _filters(self, filters: list[Manifest], route: Route) -> list[Manifest]:
        """Return filters with our mirror as the route says, those of others as they are."""
        kept = [entry for entry in filters if not self._mirrored(entry)]
        return kept + ([self._mirror(route.mirror)] if route.mirror else [])

    def _mirrored(self, entry: Manifest) -> Backend | None:
        """Return what a filter mirrors to this rollout; None when it does something else."""
        mirror = entry.get("requestMirror", {})
        revision = self._mine(mirror["backendRef"]) if "backendRef" in mirror else None
        return Backend(revision, mirror.get("percent", 100) * 100) if revision else None

    def _mirror(self, mirror: Backend) -> Manifest:
        name = self._owner.object_name(mirror.revision)
        service = {"group": "", "kind": "Service", "name": name, "port": SHADOW_PORT}
        percent = mirror.weight // 100
        return {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": service, "percent": percent},
        }

    def _named(self, found: Manifest) -> dict[str, Any]:
        rules: list[dict[str, Any]] = found["spec"].get("rules", [])
        for rule in rules:
            if rule.get("name") == self._rule:
                return rule
        known = ", ".join(str(rule.get("name")) for rule in rules) or "none"
        raise Refused(
            f"{self._traffic.kind} {self._name} has no rule named {self._rule}, it has: {known}",
            hint="give the rule that name, or change traffic.routeRef",
        )

    def _mine(self, entry: Manifest) -> str | None:
        """Return the revision of a backend that is this rollout's."""
        service = entry.get("kind", "Service") == "Service" and not entry.get("group")
        here = entry.get("namespace", self._owner.namespace) == self._owner.namespace
        return self._owner.revision_of(entry["name"]) if service and here else None

    def _backend(self, backend: Backend) -> Manifest:
        name = self._owner.object_name(backend.revision)
        return {
            "group": "",
            "kind": "Service",
            "name": name,
            "port": GRPC_PORT if self._resource == GRPC_ROUTES else PORT,
            "weight": backend.weight,
        }


def _weights(route: Manifest) -> str:
    """Say which backends a route has, with their weights."""
    backends = [b for rule in route["spec"].get("rules", []) for b in rule.get("backendRefs", [])]
    return ", ".join(f"{entry['name']} {entry.get('weight', 1)}" for entry in backends)


def _unsettled(route: Manifest) -> str:
    """Say why a route is not in force; empty when it is."""
    generation, namespace = route["metadata"]["generation"], route["metadata"]["namespace"]
    parents = {
        _parent(status["parentRef"], namespace): status
        for status in route.get("status", {}).get("parents", [])
    }
    for reference in route["spec"].get("parentRefs", []):
        status = parents.get(_parent(reference, namespace))
        if status is None:
            return f"Gateway {reference['name']} has not answered"
        found = {condition["type"]: condition for condition in status.get("conditions", [])}
        for kind in ("Accepted", "ResolvedRefs"):
            condition = found.get(kind, {})
            if condition.get("observedGeneration", 0) < generation:
                return f"Gateway {reference['name']} has not taken up generation {generation}"
            if condition.get("status") != "True":
                why = f"{condition.get('reason', '')}: {condition.get('message', '')}"
                return f"Gateway {reference['name']}: not {kind}: {why}"
    return "" if parents else "no Gateway has answered"


def _parent(reference: Manifest, namespace: str) -> tuple[str, ...]:
    """Return what identifies a parent; `namespace` is that of the route."""
    defaults = {"kind": "Gateway", "namespace": namespace, "name": "", "sectionName": ""}
    return tuple(str(reference.get(key) or default) for key, default in defaults.items())
