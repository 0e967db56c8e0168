"""How pods and jobs end: waited for until they do, whichever way, and told with states and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from tests.cluster.access import Access, CommandFailed
from tests.cluster.rollouts import eventually

PATIENCE = 300.0
"""Seconds until the end of a pod or a job: a loaded machine is slow."""
LINES = 25
"""Last lines of each container's log in a story."""
FINAL = {"Succeeded": True, "Complete": True, "Failed": False}
"""Phases of a pod and conditions of a job that are ends, and whether they are good ones."""


def succeeds(access: Access, namespace: str, what: str, seconds: float = PATIENCE) -> bool:
    """Wait for the end of `pod/NAME` or `job/NAME` and return whether it is a good one.

    Raises:
        AssertionError: It goes on for longer; the message has the story of the namespace.
    """
    ended = eventually(
        lambda: _end(access, namespace, what),
        seconds,
        lambda: f"{what} has not ended\n{story(access, namespace)}",
    )
    return FINAL[ended]


@contextmanager
def telling(access: Access, namespace: str) -> Iterator[None]:
    """Add the namespace's story to the error of a command in the block: kubectl or helm's wait."""
    try:
        yield
    except CommandFailed as error:
        error.add_note(story(access, namespace))
        raise


def story(access: Access, namespace: str) -> str:
    """Tell how far the pods of a namespace came: states, last lines of logs, warnings."""
    pods = json.loads(_ask(access, namespace, "get", "pods", "--output=json"))["items"]
    warned = ("get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp")
    told = [f"namespace {namespace}:", *(_of_pod(access, namespace, pod) for pod in pods)]
    return "\n".join([*told, "warnings:", _ask(access, namespace, *warned, "--no-headers")])


def _end(access: Access, namespace: str, what: str) -> str:
    kind, _, name = what.partition("/")
    if kind == "pod":
        pod = client.CoreV1Api(access.api).read_namespaced_pod_status(name, namespace)
        said = [pod.status.phase]
    else:
        job = client.BatchV1Api(access.api).read_namespaced_job_status(name, namespace)
        said = [one.type for one in job.status.conditions or [] if one.status == "True"]
    return next((one for one in said if one in FINAL), "")


def _of_pod(access: Access, namespace: str, pod: dict[str, Any]) -> str:
    name, status = pod["metadata"]["name"], pod["status"]
    told = [f"pod {name} is {status['phase']} {status.get('message', '')}".rstrip()]
    for kind in ("initContainerStatuses", "containerStatuses"):
        for one in status.get(kind, []):
            last = (name, f"--container={one['name']}", f"--tail={LINES}")
            log = _ask(access, namespace, "logs", *last)
            said = "".join(f"\n    {line}" for line in log.splitlines())
            told.append(f"  {one['name']}: {json.dumps(one['state'])}{said or ' (no log)'}")
    return "\n".join(told)


def _ask(access: Access, namespace: str, *arguments: str) -> str:
    return access.kubectl(*arguments, "--namespace", namespace, check=False)
