"""Decisions as Events: what `kubectl describe` shows a person."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from tidemill.adapters.kubernetes.client import EVENTS, ROLLOUTS, Manifest, Objects
from tidemill.domain.rollout.model import Decision
from tidemill.errors import TidemillError

__all__ = ["DecisionEvents"]

log = structlog.get_logger(__name__)
REPORTER = "tidemill.dev/rollout"
WARNINGS = ("rollback", "hold", "pause")
MAX_NOTE = 1024
"""The API server takes no longer note."""


class DecisionEvents:
    """Writes an Event per decision; one that is lost is still in the log and the status."""

    def __init__(self, objects: Objects, identity: str) -> None:
        self._objects = objects
        self._identity = identity

    def tell(self, rollout: Manifest, decision: Decision) -> None:
        """Write the Event about a decision that is in the status already."""
        metadata = rollout["metadata"]
        share = f"{decision.weight / 100:g} % to {decision.revision}"
        event = {
            "apiVersion": EVENTS.api,
            "kind": EVENTS.kind,
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "namespace": metadata["namespace"],
            },
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if decision.action in WARNINGS else "Normal",
            "reason": decision.action.title().replace("_", ""),
            "action": decision.action.title().replace("_", ""),
            "note": f"{decision.reason} ({decision.phase}, {share})"[:MAX_NOTE],
            "reportingController": REPORTER,
            "reportingInstance": self._identity,
            "regarding": {
                "apiVersion": ROLLOUTS.api,
                "kind": ROLLOUTS.kind,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
        }
        try:
            self._objects.create(EVENTS, event)
        except TidemillError as error:
            log.warning("no Event was written", seq=decision.seq, problem=error.message)
