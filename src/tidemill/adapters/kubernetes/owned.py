"""Objects that a rollout owns: their names, labels and owner, and writing them only when needed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from tidemill.adapters.kubernetes.client import Contested, Manifest, Objects, Resource
from tidemill.errors import NotFound

__all__ = ["ROLLOUT", "Applied", "Owner"]

ROLLOUT = "serving.tidemill.dev/rollout"
"""Label: name of the rollout that an object belongs to."""
REVISION = "serving.tidemill.dev/revision"
"""Label: revision that a server serves."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The rollout that owns what is made for it."""

    namespace: str
    name: str
    uid: str

    @property
    def labels(self) -> dict[str, str]:
        """What all objects of the rollout carry."""
        return {"app.kubernetes.io/managed-by": "tidemill", ROLLOUT: self.name}

    def object_name(self, revision: str) -> str:
        """Name of a revision's Deployment and Service."""
        return f"{self.name}-{revision}"

    def revision_of(self, object_name: str) -> str | None:
        """Return the revision of an object's name; None when it is not this rollout's."""
        prefix = f"{self.name}-"
        revision = object_name.removeprefix(prefix)
        known = object_name.startswith(prefix) and revision and "-" not in revision
        return revision if known else None

    def metadata(self, name: str, revision: str = "") -> Manifest:
        """Return the metadata of an object that ends when the rollout does."""
        labels = self.labels | ({REVISION: revision} if revision else {})
        reference = {
            "apiVersion": "serving.tidemill.dev/v1alpha1",
            "kind": "ModelRollout",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": labels,
            "ownerReferences": [reference],
        }


class Applied:
    """Applies a manifest unless it was the last one and the object has not been edited since.

    What others have set otherwise is taken back: nobody else may own what the controller owns.

    An edit raises `metadata.generation`; kinds without one (Service) change their version only when
    edited. What is remembered is lost with the process: then everything is applied once more.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._last: dict[tuple[str, str], tuple[str, str, str]] = {}

    def apply(self, resource: Resource, manifest: Manifest) -> str:
        """Make the object so; return what others had done to it, as far as that is known.

        Raises what the API server says.
        """
        metadata = manifest["metadata"]
        key = (resource.plural, metadata["name"])
        wanted = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        try:
            live = self._objects.get(resource, metadata["namespace"], metadata["name"])
        except NotFound:
            live = None
        last = self._last.get(key)
        if live is not None and last == (wanted, *_edition(live)):
            return ""
        found = ""
        if last is not None and live is None:
            found = "it was deleted"
        elif last is not None and live is not None and last[1:] != _edition(live):
            found = "it was edited"
        try:
            applied = self._objects.apply(resource, manifest, force=False)
            if live is not None and live.get("spec") == applied.get("spec"):
                found = ""  # what was edited is not ours, and stays
        except Contested as claims:
            found = f"it was edited ({claims.message})"
            applied = self._objects.apply(resource, manifest, force=True)
        self._last[key] = (wanted, *_edition(applied))
        return found


def _edition(live: Manifest) -> tuple[str, str]:
    metadata = live["metadata"]
    return metadata["uid"], str(metadata.get("generation") or metadata["resourceVersion"])
