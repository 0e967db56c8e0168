"""Decisions and repairs as Events: what `kubectl describe` shows a person."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import structlog

from tidemill.adapters.kubernetes.client import EVENTS, ROLLOUTS, Manifest, Objects
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.domain.rollout.model import Decision
from tidemill.errors import Conflict, TidemillError

__all__ = ["DecisionEvents"]

log = structlog.get_logger(__name__)
REPORTER = "tidemill.dev/rollout"
WARNINGS = ("rollback", "hold", "pause")
MAX_NOTE = 1024
"""The API server takes no longer note."""


class DecisionEvents:
    """Writes an Event per decision or repair; one that is lost is still in the log."""

    def __init__(self, objects: Objects, identity: str) -> None:
        self._objects = objects
        self._identity = identity

    def tell(self, rollout: Manifest, decision: Decision) -> None:
        """Write the Event about a decision that is in the status already."""
        metadata = rollout["metadata"]
        share = f"{decision.weight / 100:g} % to {decision.revision}"
        reason = decision.action.title().replace("_", "")
        self._write(
            Owner(metadata["namespace"], metadata["name"], metadata["uid"]),
            {"generateName": f"{metadata['name']}-"},
            reason,
            f"{decision.reason} ({decision.phase}, {share})",
            warning=decision.action in WARNINGS,
        )

    def repaired(self, owner: Owner, what: str) -> None:
        """Write the Event about a route that was taken back; one a minute about the same edit."""
        minute = datetime.now(UTC).strftime("%Y%m%d%H%M")
        digest = hashlib.sha256(f"{owner.uid} {minute} {what}".encode()).hexdigest()[:16]
        self._write(owner, {"name": f"{owner.name}-{digest}"}, "RouteRepaired", what, warning=True)

    def _write(
        self, owner: Owner, name: dict[str, str], reason: str, note: str, *, warning: bool
    ) -> None:
        event = {
            "apiVersion": EVENTS.api,
            "kind": EVENTS.kind,
            "metadata": name | {"namespace": owner.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": reason,
            "note": note[:MAX_NOTE],
            "reportingController": REPORTER,
            "reportingInstance": self._identity,
            "regarding": {
                "apiVersion": ROLLOUTS.api,
                "kind": ROLLOUTS.kind,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
        }
        try:
            self._objects.create(EVENTS, event)
        except Conflict:
            return  # it was said already
        except TidemillError as error:
            log.warning("no Event was written", reason=reason, note=note, problem=error.message)
