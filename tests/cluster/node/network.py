"""The pods' network: one bridge, and for each pod a network namespace with its own address."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from ipaddress import IPv4Network
from pathlib import Path


class Bridge:
    """Joins the pods' namespaces with this machine; `gateway` is its own address."""

    def __init__(self, name: str, pods: IPv4Network) -> None:
        self.name, self._pods = name, pods
        self.gateway = str(pods[1])
        # Oldest first: clients may still know the address of a pod that is gone.
        self._free = deque(str(address) for address in list(pods.hosts())[1:])

    async def up(self) -> None:
        """Create the bridge, and remove cables of an earlier one: the kernel frees them late."""
        for left in Path("/sys/class/net").glob(f"{self.name}-*"):
            with contextlib.suppress(OSError):  # it has just gone
                await ip(f"link del {left.name}")
        await ip(
            f"link add {self.name} type bridge",
            f"addr add {self.gateway}/{self._pods.prefixlen} dev {self.name}",
            f"link set {self.name} up",
        )

    async def down(self) -> None:
        """Remove the bridge; the service addresses go with it."""
        await ip(f"link del {self.name}")

    async def attach(self, namespace: str) -> str:
        """Create a network namespace on the bridge and return its address."""
        address = self._free.popleft()
        outside = f"{self.name}-{address.rpartition('.')[2]}"
        await ip(
            f"netns add {namespace}",
            f"link add {outside} type veth peer name eth0 netns {namespace}",
            f"link set {outside} master {self.name} up",
        )
        await ip(
            "link set lo up",
            f"addr add {address}/{self._pods.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {self.gateway}",
            namespace=namespace,
        )
        return address

    async def detach(self, namespace: str, address: str) -> None:
        """Remove a pod's namespace; its end of the cable goes with it."""
        await ip(f"netns del {namespace}")
        self._free.append(address)

    async def add_service(self, address: str) -> None:
        """Make a ClusterIP an address of this machine, for pods and for the tests."""
        await ip(f"addr replace {address}/32 dev {self.name}")


async def ip(*commands: str, namespace: str = "") -> None:
    """Run commands of iproute2 in one go.

    Raises:
        OSError: It refused one; the message says which.
    """
    inside = ["-n", namespace] if namespace else []
    process = await asyncio.create_subprocess_exec(
        "ip", *inside, "-batch", "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate("\n".join(commands).encode())
    if process.returncode:
        raise OSError(f"ip: {'; '.join(commands)}: {said.decode().strip()}")
