"""The control plane is real: it stores, admits, authorises and reconciles."""

from __future__ import annotations

import pytest
from kubernetes import client
from tests.cluster.access import Cluster, CommandFailed


def test_objects_are_stored_and_validated(cluster: Cluster, namespace: str) -> None:
    core = client.CoreV1Api(cluster.api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one"), data={"a": "1"})
    core.create_namespaced_config_map(namespace, body)
    assert core.read_namespaced_config_map("one", namespace).data == {"a": "1"}
    body.metadata.name = "Not a name"
    with pytest.raises(client.ApiException, match="RFC 1123"):
        core.create_namespaced_config_map(namespace, body)


def test_a_service_account_may_do_what_its_role_says_and_nothing_else(
    cluster: Cluster, namespace: str
) -> None:
    user = cluster.user("reader", namespace)
    inside = ("--namespace", namespace)
    with pytest.raises(CommandFailed, match=f"{namespace}:reader.*cannot list resource"):
        user.kubectl("get", "configmaps", *inside)
    cluster.kubectl("create", "role", "r", "--verb=list", "--resource=configmaps", *inside)
    bind = ("--role=r", f"--serviceaccount={namespace}:reader")
    cluster.kubectl("create", "rolebinding", "r", *bind, *inside)
    user.kubectl("get", "configmaps", *inside)
    with pytest.raises(CommandFailed, match="cannot create resource"):
        user.kubectl("create", "configmap", "mine", *inside)


def test_restricted_namespaces_refuse_privileged_pods(controllers: Cluster) -> None:
    name = controllers.namespace(enforce="restricted")
    run = ("run", "p", "--image=i", "--namespace", name)
    with pytest.raises(CommandFailed, match="violates PodSecurity"):
        controllers.kubectl(*run)
    controllers.kubectl("delete", "namespace", name, "--wait=false")


def test_the_controllers_make_pods_of_a_deployment(controllers: Cluster, namespace: str) -> None:
    inside = ("--namespace", namespace)
    controllers.kubectl("create", "deployment", "web", "--image=i", "--replicas=2", *inside)
    wait = ("--for=jsonpath={.status.replicas}=2", "--timeout=300s")
    controllers.kubectl("wait", "deployment/web", *wait, *inside)
    pods = client.CoreV1Api(controllers.api).list_namespaced_pod(namespace).items
    assert {pod.metadata.owner_references[0].kind for pod in pods} == {"ReplicaSet"}
