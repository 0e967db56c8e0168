"""Which rollouts an object concerns: what is looked at again when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS, Manifest, Resource
from tidemill.adapters.kubernetes.owned import ROLLOUT

__all__ = ["concerned", "key"]


def key(found: Manifest) -> str:
    """Return the key of a rollout: namespace and name."""
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


def concerned(
    resource: Resource,
    found: Manifest,
    before: Manifest | None,
    rollouts: Callable[[], Iterable[Manifest]],
) -> list[str]:
    """Return the keys of the rollouts that `found` concerns.

    A rollout's own status is the controller's writing: it wakes nobody.
    """
    metadata = found["metadata"]
    if resource == ROLLOUTS:
        same = before is not None and before is not found and _wish(before) == _wish(found)
        return [] if same else [key(found)]
    if owner := metadata.get("labels", {}).get(ROLLOUT):
        return [f"{metadata['namespace']}/{owner}"]
    mine = (r for r in rollouts() if r["metadata"]["namespace"] == metadata["namespace"])
    asked = _policy if resource == POLICIES else _route
    return [key(rollout) for rollout in mine if asked(rollout) == metadata["name"]]


def _wish(found: Manifest) -> tuple[object, ...]:
    metadata = found["metadata"]
    return metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp")


def _policy(rollout: Manifest) -> str | None:
    name: str | None = rollout["spec"]["analysis"].get("policyRef", {}).get("name")
    return name


def _route(rollout: Manifest) -> str | None:
    name: str | None = rollout["spec"]["traffic"].get("routeRef", {}).get("name")
    return name
