"""A node of one test cluster: kubelet, service proxy and name server together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from tests.cluster import build
from tests.cluster.controlplane import Ready
from tests.cluster.node.api import Api, Object
from tests.cluster.node.dns import NameServer
from tests.cluster.node.images import Images
from tests.cluster.node.kubelet import Kubelet
from tests.cluster.node.logs import serve_logs
from tests.cluster.node.network import Bridge
from tests.cluster.node.pod import Host
from tests.cluster.node.proxy import Proxy
from tests.cluster.node.services import Services

KUBELET_PORT = 10250
DNS_PORT = 53
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


@asynccontextmanager
async def running(name: str, plane: Ready, folder: Path) -> AsyncIterator[None]:
    """Run a node; when entered it is ready, and names resolve. Pods end with it.

    Raises:
        ExceptionGroup: A part of it failed.
    """
    bridge = Bridge(plane.addresses.bridge, plane.addresses.pods)
    sweep(bridge.name)
    images = Images(folder / "images.json")
    api = Api(plane.server, plane.authority, plane.node)
    host = Host(api, bridge, images, folder / "pods", plane.addresses.api)
    kubelet = Kubelet(name, build.version("k8s.io/kubernetes"), KUBELET_PORT, host)
    async with AsyncExitStack() as stack:
        await bridge.up()
        stack.push_async_callback(bridge.down)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = await _serve_services(plane, bridge, group)
        here = (bridge.gateway, KUBELET_PORT)
        logs = await serve_logs(kubelet, here, plane.authority, plane.kubelet)
        stack.push_async_callback(logs.cleanup)
        await kubelet.register()
        tasks.append(group.create_task(kubelet.run()))
        yield
        for task in tasks:
            task.cancel()
        await kubelet.kill()


async def _serve_services(
    plane: Ready, bridge: Bridge, group: asyncio.TaskGroup
) -> list[asyncio.Task[None]]:
    """Start name server and proxy; returns the tasks that keep them true."""
    host, _, port = plane.server.removeprefix("https://").rpartition(":")
    services = Services((host, int(port)))
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(services), local_addr=(bridge.gateway, DNS_PORT)
    )
    changed = asyncio.Event()

    def keep(store: dict[str, Object], uid: str, item: Object | None) -> None:
        if item is None:
            store.pop(uid, None)
        else:
            store[uid] = item
        changed.set()

    api = Api(plane.server, plane.authority, plane.proxy)
    proxy = Proxy(services, bridge)
    tasks = [
        group.create_task(api.mirror("/api/v1/services", partial(keep, services.services))),
        group.create_task(api.mirror(SLICES, partial(keep, services.slices))),
        group.create_task(proxy.run(changed)),
    ]
    await proxy.synced.wait()
    return tasks


def sweep(bridge: str) -> None:
    """Remove what a node left that was killed: processes, namespaces, the bridge.

    Its addresses are this process's alone, so nobody else has what is named after them.
    """
    for path in Path("/run/netns").glob(f"{bridge}-*"):
        found = subprocess.run(["ip", "netns", "pids", path.name], capture_output=True, text=True)
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", path.name], check=False)
    subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def obstacle(folder: Path) -> str:
    """Return why no node can run here; empty when one can."""
    if os.geteuid() != 0:
        return "the test node needs root: it makes network namespaces and mounts"
    programs = ("ip", "nsenter", "setpriv", "unshare")
    if missing := [name for name in programs if not shutil.which(name)]:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux)"
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    mount = f"mount -t overlay overlay -o {layers} {folder}/merged"
    bridge = "ip link add try0 type bridge && ip link add try1 type veth"
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", f"{mount} && {bridge}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    shutil.rmtree(folder)
    return f"namespaces or mounts are not permitted here: {done.stderr}" if done.returncode else ""
