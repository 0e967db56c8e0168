"""Registers the node and runs the pods that the scheduler gives it."""

from __future__ import annotations

import asyncio
import os
import platform
import traceback

from tests.cluster.node.api import Object, Refused
from tests.cluster.node.clock import now, now_micro
from tests.cluster.node.pod import Host, Pod
from tests.cluster.node.status import ENDED

HEARTBEAT = 10.0
"""Seconds between renewals of the node's lease, which is good for 40."""
CAPACITY = {"cpu": "64", "memory": "64Gi", "pods": "200", "ephemeral-storage": "64Gi"}
"""More than the machine has: requests are sized for production, and nothing enforces them here."""
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Kubelet:
    """Runs pods as processes, under the identity system:node:NAME."""

    def __init__(self, name: str, version: str, port: int, host: Host) -> None:
        self._name, self._version, self._port, self._host = name, version, port, host
        self._pods: dict[str, Pod] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        """Create the Node, and say that it is ready."""
        labels = {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        try:
            meta = {"name": self._name, "labels": labels}
            await self._host.api.post("/api/v1/nodes", {"metadata": meta})
        except Refused as error:
            if error.status != 409:  # it is there from an earlier time
                raise
        await self._host.api.patch(f"/api/v1/nodes/{self._name}/status", {"status": self._status()})

    async def run(self) -> None:
        """Keep the node alive and its pods running; never returns."""
        query = f"fieldSelector=spec.nodeName%3D{self._name}"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._host.api.mirror(f"/api/v1/pods?{query}", self._update))

    async def kill(self) -> None:
        """End all pods' processes at once, and tell nobody."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(pod.kill() for pod in self._pods.values()))

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return the pod of a name, the newest if an old one is still ending."""
        for pod in reversed(self._pods.values()):
            if (pod.manifest.namespace, pod.manifest.name) == (namespace, name):
                return pod
        return None

    def _update(self, uid: str, pod: Object | None) -> None:
        if uid in self._pods:
            self._pods[uid].update(pod)
        elif pod is not None and pod.get("status", {}).get("phase") not in ENDED:
            self._pods[uid] = Pod(self._host, pod)
            self._pods[uid].update(pod)
            task = asyncio.ensure_future(self._run(uid))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, uid: str) -> None:
        try:
            await self._pods[uid].run()
        except Exception:  # noqa: BLE001 - a node outlives whatever a pod does
            traceback.print_exc()
        self._pods.pop(uid)

    async def _beat(self) -> None:
        while True:
            spec = {"holderIdentity": self._name, "leaseDurationSeconds": 40}
            body = {"spec": {**spec, "renewTime": now_micro()}}
            try:
                await self._renew(body)
            except Refused as error:
                print(f"lease: {error!r}", flush=True)
            await asyncio.sleep(HEARTBEAT)

    async def _renew(self, body: Object) -> None:
        try:
            await self._host.api.patch(f"{LEASES}/{self._name}", body)
        except Refused as error:
            if error.status != 404:
                raise
            meta = {"name": self._name, "namespace": "kube-node-lease"}
            await self._host.api.post(LEASES, {"metadata": meta, **body})

    def _status(self) -> Object:
        conditions = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False"}
        address = self._host.bridge.gateway
        return {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "conditions": [
                {"type": kind, "status": status, "reason": "ProcessNode",
                 "lastHeartbeatTime": now(), "lastTransitionTime": now()}
                for kind, status in conditions.items()
            ],
            "nodeInfo": {
                "kubeletVersion": self._version,
                "containerRuntimeVersion": "process://1",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "osImage": platform.system(),
                "kernelVersion": os.uname().release,
                "kubeProxyVersion": "",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        }  # fmt: skip
