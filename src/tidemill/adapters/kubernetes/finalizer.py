"""A mark on rollouts that write into somebody else's route: it is tidied before they go.

All else that a rollout makes is owned by it and goes with it, controller or not.
"""

from __future__ import annotations

from tidemill.adapters.kubernetes.client import ROLLOUTS, Manifest, Objects

__all__ = ["marked", "set_mark"]

FINALIZER = "serving.tidemill.dev/attached-route"


def marked(found: Manifest) -> bool:
    """Whether the rollout waits for its backends to be taken out of the route."""
    return FINALIZER in found["metadata"].get("finalizers", [])


def set_mark(objects: Objects, found: Manifest, *, present: bool) -> None:
    """Set or take the mark at the version that was read; raises Conflict."""
    metadata = found["metadata"]
    others = [f for f in metadata.get("finalizers", []) if f != FINALIZER]
    patch = {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "resourceVersion": metadata["resourceVersion"],
        "finalizers": [*others, FINALIZER] if present else others,
    }
    objects.merge(ROLLOUTS, {"metadata": patch})
