"""The addresses of one test cluster, which no other on this machine has."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Addresses:
    """Blocks of 198.18.0.0/15, which RFC 2544 keeps for tests and nobody routes."""

    number: int

    @property
    def services(self) -> IPv4Network:
        """Return where ClusterIPs come from."""
        return IPv4Network(f"198.18.{self.number}.0/24")

    @property
    def pods(self) -> IPv4Network:
        """Return where pod addresses come from."""
        return IPv4Network(f"198.19.{self.number}.0/24")

    @property
    def api(self) -> str:
        """Return the ClusterIP of the service `kubernetes`."""
        return str(self.services[1])

    @property
    def node(self) -> str:
        """Return the node's address: the pods' gateway, name server and the kubelet's address."""
        return str(self.pods[1])

    @property
    def bridge(self) -> str:
        """Return the name of the network bridge that joins the pods."""
        return f"tidemill{self.number}"


@contextmanager
def claimed() -> Iterator[Addresses]:
    """Yield addresses that are this process's alone until it leaves or dies."""
    number, lock = next(filter(None, map(_claim, range(256))), (None, None))
    if number is None or lock is None:
        raise RuntimeError("256 test clusters run on this machine: stop some")
    with lock:
        yield Addresses(number)


def _claim(number: int) -> tuple[int, IO[str]] | None:
    path = Path(tempfile.gettempdir(), f"tidemill-cluster-{number}.lock")
    try:
        lock = path.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or another user
        return None
    return number, lock


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
