"""A wait for a pod ends with the pod, and says how far it came if there is no end."""

from __future__ import annotations

import json

import pytest
from tests.cluster.access import Cluster, CommandFailed
from tests.cluster.endings import story, succeeds, telling
from tests.cluster.node.images import Image
from tests.cluster.restricted import pod, run
from tests.cluster.rollouts import eventually
from tests.cluster.workloads import Workloads

IMAGE = "test/shell"


@pytest.fixture
def shell(node: Workloads) -> None:
    node.add_image(IMAGE, Image(user=10001))


@pytest.mark.usefixtures("shell")
def test_a_failed_pod_is_an_end_and_its_log_the_message(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(AssertionError) as failed:
        run(cluster, namespace, pod("step", IMAGE, ["sh", "-c", "echo no column dest; exit 3"]))
    message = str(failed.value)
    assert "pod step is Failed" in message
    assert '"exitCode": 3' in message
    assert "no column dest" in message


@pytest.mark.usefixtures("shell")
def test_what_does_not_end_says_how_far_it_came(cluster: Cluster, namespace: str) -> None:
    made = pod("step", IMAGE, ["sh", "-c", "seq 100; sleep 600"])
    cluster.kubectl("apply", "-f", "-", "--namespace", namespace, stdin=json.dumps(made))
    wait = ("--for=condition=Ready", "pod/step", "--timeout=300s")
    cluster.kubectl("wait", *wait, "--namespace", namespace)
    logs = ("logs", "pod/step", "--namespace", namespace)
    eventually(lambda: "\n100" in cluster.kubectl(*logs))
    with pytest.raises(AssertionError, match="within 0 s: pod/step has not ended") as failed:
        succeeds(cluster, namespace, "pod/step", seconds=0)
    assert "pod step is Running" in str(failed.value)
    assert "\n    99\n    100\n" in str(failed.value)
    assert "\n    75\n" not in str(failed.value)


def test_a_command_that_gave_up_waiting_tells_of_the_pods(
    cluster: Cluster, node: Workloads, namespace: str
) -> None:
    node.add_image("test/none", None)
    made = pod("waits", "test/none", ["true"])
    cluster.kubectl("apply", "-f", "-", "--namespace", namespace, stdin=json.dumps(made))
    wait = ("--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull",)
    cluster.kubectl("wait", "pod/waits", *wait, "--timeout=300s", "--namespace", namespace)
    gone = ("wait", "pod/waits", "--for=condition=Ready", "--timeout=0s", "--namespace", namespace)
    with pytest.raises(CommandFailed) as failed, telling(cluster, namespace):
        cluster.kubectl(*gone)
    (note,) = failed.value.__notes__
    assert "pod waits is Pending" in note
    assert "no such image" in note


def test_what_makes_no_pod_is_told_by_its_warnings(cluster: Cluster, namespace: str) -> None:
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "refused"},
        "spec": {"template": {"spec": pod("refused", IMAGE, ["true"])["spec"]}},
    }
    body["spec"]["template"]["spec"]["serviceAccountName"] = "nobody"  # type: ignore[index]
    cluster.kubectl("apply", "-f", "-", "--namespace", namespace, stdin=json.dumps(body))
    events = ("--for=create", "events", "--field-selector=reason=FailedCreate", "--timeout=300s")
    cluster.kubectl("wait", *events, "--namespace", namespace)
    assert 'serviceaccount "nobody" not found' in story(cluster, namespace)
