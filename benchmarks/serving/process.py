"""A server's processes on their own core: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil

from tidemill.errors import Unavailable

__all__ = ["Launch", "Server", "run"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Launch:
    """How a server is started; `{http}` and `{grpc}` stand for its free ports."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/v2/models/mlp/ready"
    """Path that answers 200 once the server may be asked."""


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    process: psutil.Process
    http: str
    """Its base URL."""
    grpc: str
    """`host:port` that it was given for gRPC."""
    start_seconds: float
    """From the start of its process until it was ready."""
    start_cpu: float
    """CPU seconds of all its processes until then."""

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes so far, user and system."""
        return sum(map(_cpu_seconds, _tree(self.process)))

    @property
    def rss_mb(self) -> float:
        """Resident memory of all its processes, MB; what they share counts in each."""
        return sum(process.memory_info().rss for process in _tree(self.process)) / 1e6


@contextmanager
def run(launch: Launch, core: int, log: Path) -> Iterator[Server]:
    """Start a server on one core, yield it when it is ready, stop it with all its processes.

    Raises Unavailable with the end of its output when it does not get ready.
    """
    ports = dict(zip(("http", "grpc"), _free_ports(2), strict=True))
    command = ["taskset", "--cpu-list", str(core), *(_fill(part, ports) for part in launch.command)]
    begun = monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=launch.cwd,
            env=os.environ | {name: _fill(value, ports) for name, value in launch.env.items()},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        http = f"http://127.0.0.1:{ports['http']}"
        _wait(http + launch.ready, process, log)
        seconds = monotonic() - begun
        server = Server(
            psutil.Process(process.pid), http, f"127.0.0.1:{ports['grpc']}", seconds, 0.0
        )
        yield Server(server.process, server.http, server.grpc, seconds, server.cpu_seconds)
    finally:
        _stop(process)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    ended: float = times.children_user + times.children_system
    return ended + times.user + times.system


def _fill(text: str, ports: Mapping[str, str]) -> str:
    for name, port in ports.items():
        text = text.replace(f"{{{name}}}", port)
    return text


def _free_ports(count: int) -> list[str]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = monotonic() + START_SECONDS
    with httpx.Client(trust_env=False) as client:
        while monotonic() < end and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            sleep(POLL_SECONDS)
    code = process.poll()
    how = f"was not ready within {START_SECONDS:g} s" if code is None else f"ended with {code}"
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise Unavailable(f"it {how}; the last it said: {said[-1]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):  # what it left behind; the group is its own
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
