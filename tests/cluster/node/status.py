"""What the API server is told about a pod: phase and conditions, from its containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.cluster.node.api import Object
from tests.cluster.node.clock import now
from tests.cluster.node.container import Container

ENDED = ("Succeeded", "Failed")


@dataclass
class Progress:
    """How far a pod has come; its runner sets these."""

    initialized: bool = False
    ended: bool = False
    """All its containers have ended for good."""
    reason: str = ""
    """Why it was ended as a whole: DeadlineExceeded."""
    message: str = ""


def phase(progress: Progress, inits: Sequence[Container], mains: Sequence[Container]) -> str:
    """Return the pod's phase."""
    if not progress.ended:
        return "Running" if any(one.runs for one in mains) else "Pending"
    well = not progress.reason and all(one.exit_code == 0 for one in [*inits, *mains])
    return "Succeeded" if well else "Failed"


def pod_status(
    progress: Progress,
    inits: Sequence[Container],
    mains: Sequence[Container],
    addresses: tuple[str, str],
    before: Object,
) -> Object:
    """Return the PodStatus; `addresses` are the node's and the pod's, `before` the last status."""
    node, address = addresses
    name = phase(progress, inits, mains)
    ready = name == "Running" and all(one.ready for one in mains)
    facts = {
        "PodReadyToStartContainers": name not in ENDED,
        "Initialized": progress.initialized,
        "ContainersReady": ready,
        "Ready": ready,
    }
    known = {one["type"]: one for one in before.get("conditions", [])}
    return {
        "phase": name,
        "reason": progress.reason or None,
        "message": progress.message or None,
        "hostIP": node,
        "hostIPs": [{"ip": node}],
        "podIP": address,
        # The API server merges this list by address: an earlier address would stay in it.
        "podIPs": [{"$patch": "replace"}, {"ip": address}],
        "startTime": before.get("startTime") or now(),
        "conditions": [
            _condition(kind, holds, name, known.get(kind)) for kind, holds in facts.items()
        ],
        "initContainerStatuses": [one.status() for one in inits],
        "containerStatuses": [one.status() for one in mains],
    }


def _condition(kind: str, holds: bool, phase: str, before: Object | None) -> Object:
    value = "True" if holds else "False"
    if before and before["status"] == value:
        return before
    why = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "ContainersNotReady")
    reason = None if holds else why
    return {"type": kind, "status": value, "reason": reason, "lastTransitionTime": now()}
