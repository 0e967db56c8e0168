"""Whose refusal counts: that of the pods that a revision's Deployment has now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tidemill.adapters.kubernetes.client import DEPLOYMENTS, PODS, Manifest, Resource
from tidemill.adapters.kubernetes.owned import REVISION, Owner
from tidemill.adapters.kubernetes.workloads import DeploymentWorkloads

BEFORE, MADE, AFTER = (f"2026-01-01T00:00:{second:02}Z" for second in (9, 10, 11))
MINE = {REVISION: "v2"}


class Cluster:
    """A Deployment with one server too few, and pods."""

    def __init__(self, *pods: Manifest) -> None:
        deployment = {
            "metadata": {"labels": MINE, "generation": 1, "creationTimestamp": MADE},
            "spec": {"replicas": 1},
            "status": {"observedGeneration": 1, "replicas": 1},
        }
        self.found = {DEPLOYMENTS: [deployment], PODS: list(pods)}

    def select(self, resource: Resource, _: str, __: Mapping[str, str]) -> list[Manifest]:
        """Return all of a kind."""
        return self.found[resource]


def refusing(created: str, **metadata: Any) -> Manifest:
    ended = {"exitCode": 3, "message": "tidemill: golden row 7 is 0.3"}
    container = {
        "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": ended},
    }
    found = {"labels": MINE, "uid": created, "creationTimestamp": created}
    return {"metadata": found | metadata, "status": {"containerStatuses": [container]}}


@pytest.mark.parametrize("created", [MADE, AFTER])
def test_a_pod_of_the_deployment_ends_the_attempt(created: str) -> None:
    seen = DeploymentWorkloads(Cluster(refusing(created)), Owner("ml", "churn", "uid"), 1).observe()
    assert seen["v2"].refused
    assert seen["v2"].detail == "ended with exit code 3: golden row 7 is 0.3"


@pytest.mark.parametrize(
    "left_over",
    [refusing(BEFORE), refusing(AFTER, deletionTimestamp=AFTER)],
    ids=["of a deleted Deployment of the same name", "being deleted"],
)
def test_a_pod_that_is_left_over_does_not(left_over: Manifest) -> None:
    seen = DeploymentWorkloads(Cluster(left_over), Owner("ml", "churn", "uid"), 1).observe()
    assert not seen["v2"].refused
    assert seen["v2"].detail == "0 of 1 are available"
