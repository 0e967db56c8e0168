"""Whether the Gateways of a rollout can mirror requests, as their GatewayClasses say themselves.

`RequestMirror` is an extended feature of the Gateway API: one that lacks it may refuse the route,
or drop the filter without a word. https://gateway-api.sigs.k8s.io/concepts/conformance/
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from tidemill.adapters.kubernetes.client import GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, Objects
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.errors import DataError, TidemillError

__all__ = ["Mirroring"]

MIRROR = "HTTPRouteRequestMirror"
SHARE = "HTTPRouteRequestPercentageMirror"
"""Needed to mirror less than all requests."""
REMEMBERED_SECONDS = 60.0
"""A specification is read at each look; Gateways change rarely."""


class Mirroring:
    """Asks for the Gateways of shadow steps, of the rollouts of one namespace."""

    def __init__(self, objects: Objects, namespace: str) -> None:
        self._objects = objects
        self._namespace = namespace
        self._known: dict[tuple[str, str], tuple[float, str, frozenset[str]]] = {}

    def check(self, spec: ModelRolloutSpec) -> None:
        """Raise DataError where a shadow step needs what a Gateway's class does not list."""
        shadows = {step.name: step.shadow for step in spec.strategy.steps if step.shadow}
        for name, shadow in shadows.items():
            needed = {MIRROR} if shadow.percent == 100 else {MIRROR, SHARE}
            for parent in self._parents(spec):
                kind, features = self._features(*parent)
                if missing := ", ".join(sorted(needed - features)):
                    raise DataError(
                        f"strategy.steps {name}: GatewayClass {kind} of Gateway {parent[1]} does "
                        f"not list {missing} in status.supportedFeatures: it may not mirror"
                    )

    def _parents(self, spec: ModelRolloutSpec) -> Iterable[tuple[str, str]]:
        """Return namespace and name of the Gateways of the route."""
        if spec.traffic.parent_refs:
            return [
                (ref.namespace or self._namespace, ref.name) for ref in spec.traffic.parent_refs
            ]
        assert spec.traffic.route_ref, "the schema demands one of the two"
        name = spec.traffic.route_ref.name
        try:
            route = self._objects.get(HTTP_ROUTES, self._namespace, name)
        except TidemillError as error:
            raise DataError(f"whether requests can be mirrored: {error.message}") from error
        found = route["spec"].get("parentRefs", [])
        return [(ref.get("namespace", self._namespace), ref["name"]) for ref in found]

    def _features(self, namespace: str, name: str) -> tuple[str, frozenset[str]]:
        """Return a Gateway's class and its features; what cannot be asked now is as it was."""
        known = self._known.get((namespace, name))
        if known and monotonic() < known[0]:
            return known[1:]
        try:
            kind = self._objects.get(GATEWAYS, namespace, name)["spec"]["gatewayClassName"]
            status = self._objects.get(GATEWAY_CLASSES, "", kind).get("status", {})
        except TidemillError as error:
            if known:
                return known[1:]
            raise DataError(f"whether requests can be mirrored: {error.message}") from error
        features = frozenset(entry["name"] for entry in status.get("supportedFeatures", []))
        self._known[namespace, name] = monotonic() + REMEMBERED_SECONDS, kind, features
        return kind, features
