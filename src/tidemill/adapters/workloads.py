"""Model servers on one machine: one supervised process per revision.

A server's process is called `model-<revision>-<port>-<port for shadows>`; the declared names are
all the memory that is needed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping

from tidemill.domain.rollout.model import Revision, Workload
from tidemill.errors import Refused, Unavailable
from tidemill.ports.processes import Processes, ProcessSpec, ProcessStatus

__all__ = ["ProcessWorkloads"]

NAME = re.compile(r"model-(?P<revision>[0-9a-z]+)-(?P<port>\d+)(-(?P<shadow>\d+))?")


class ProcessWorkloads:
    """Implements `ports.rollout.Workloads` by declaring processes."""

    def __init__(
        self,
        processes: Processes,
        command: Callable[[Revision, int, int], tuple[str, ...]],
        ports: tuple[int, int],
        *,
        host: str = "127.0.0.1",
        grace_seconds: float = 10.0,
    ) -> None:
        """`command` returns the argv that serves a revision on two ports of the range `ports`."""
        self._processes = processes
        self._command = command
        self._ports = ports
        self._host = host
        self._grace_seconds = grace_seconds

    def ensure(self, revision: Revision) -> None:
        """Declare the server of `revision` unless it is declared."""
        servers = self._servers()
        if any(r == revision.revision and s.state != "stopping" for r, _, s in servers):
            return
        taken = {port for _, ports, _ in servers for port in ports}
        port = self._free_port(taken)
        shadow = self._free_port(taken | {port})
        self._processes.declare(
            ProcessSpec(
                name=f"model-{revision.revision}-{port}-{shadow}",
                argv=self._command(revision, port, shadow),
                ready_url=f"http://{self._host}:{port}/v2/models/{revision.model}/ready",
                grace_seconds=self._grace_seconds,
                port=port,
            )
        )

    def remove(self, revision: str) -> None:
        """Withdraw the server of a revision."""
        for found, _, status in self._servers():
            if found == revision:
                self._processes.withdraw(status.name)

    def observe(self) -> Mapping[str, Workload]:
        """Return every declared server; one that is stopping is gone already."""
        return {
            revision: Workload(
                ready=int(status.state == "ready"),
                desired=1,
                address=f"{self._host}:{ports[0]}",
                detail=status.detail,
                refused=status.exit_code == Refused.exit_code,
                shadows={status.name: f"{self._host}:{ports[1]}"} if len(ports) > 1 else {},
            )
            for revision, ports, status in self._servers()
            if status.state != "stopping"
        }

    def _servers(self) -> list[tuple[str, list[int], ProcessStatus]]:
        """Return every server with its ports; one that an older release declared has one port."""
        found = ((NAME.fullmatch(name), s) for name, s in self._processes.statuses().items())
        return [
            (m["revision"], [int(port) for port in m.group("port", "shadow") if port], status)
            for m, status in found
            if m
        ]

    def _free_port(self, taken: set[int]) -> int:
        first, last = self._ports
        for port in range(first, last + 1):
            if port not in taken and _bindable(self._host, port):
                return port
        raise Unavailable(
            f"no port of {first}-{last} is free for a model server",
            hint="widen gateway.server_ports",
        )


def _bindable(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
