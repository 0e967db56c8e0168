"""What an autoscaler reads of a rollout, through the `scale` subresource of its resource.

`spec.runtime.replicas` is the number of servers of *each* revision, and each must be able to take
all requests. An autoscaler adds up what the chosen servers use and divides by the target for one.
So they are those of all arms that clients' requests reach: together they carry the whole load, and
the result is what one revision needs to carry it alone. Stable alone would carry half of it at a
weight of 50 %, and be halved. Servers without a weight (a canary that is prepared or mirrored to, a
previous revision) carry nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidemill.adapters.kubernetes.client import Manifest
from tidemill.adapters.kubernetes.owned import REVISION, ROLLOUT
from tidemill.domain.rollout.model import State, intent

__all__ = ["Scale", "make_scale", "said_scale", "scaled"]


@dataclass(frozen=True, slots=True)
class Scale:
    """The status of the `scale` subresource."""

    replicas: int
    """Servers that `selector` chooses."""
    selector: str
    """Label selector of the servers that carry the load."""


def make_scale(name: str, state: State, deployments: Iterable[Manifest]) -> Scale | None:
    """Return what an autoscaler reads of the rollout `name`; None before anything runs.

    `deployments` are the rollout's.
    """
    arms = _carrying(state)
    counted = [
        found.get("status", {}).get("replicas", 0)
        for found in deployments
        if found["metadata"]["labels"].get(REVISION) in arms
    ]
    selector = f"{ROLLOUT}={name},{REVISION} in ({','.join(arms)})"
    return Scale(sum(counted), selector) if arms else None


def said_scale(status: Manifest) -> Scale | None:
    """Return what a status says."""
    return Scale(status["replicas"], status["selector"]) if "selector" in status else None


def scaled(found: Manifest | None, body: Manifest) -> Manifest:
    """Return a `spec` with the number of servers that was set through `scale`, if one was.

    The API server notes who set a field last and through which subresource: a number that
    `kubectl scale` or an autoscaler gave is not taken back by whoever orders a version.
    """
    entries = found["metadata"].get("managedFields", []) if found else []
    if not found or all(entry.get("subresource") != "scale" for entry in entries):
        return body
    runtime = body["runtime"] | {"replicas": found["spec"]["runtime"]["replicas"]}
    return body | {"runtime": runtime}


def _carrying(state: State) -> list[str]:
    """Return the revisions that clients' requests reach, or that are to serve the first of them."""
    wanted = intent(state)
    weighed = [backend.revision for backend in wanted.route.backends if backend.weight]
    return weighed or sorted(revision.revision for revision in wanted.workloads)
