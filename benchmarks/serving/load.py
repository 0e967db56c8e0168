"""The load: wrk on the other core, at full speed or with pauses between a connection's requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.serving.process import Server
from tidemill.errors import Unavailable

__all__ = ["CONNECTIONS", "Drive", "Load", "Request", "require_wrk", "wrk"]

CONNECTIONS = 32
LATE_SECONDS = 10
"""A slower answer is a failure: wrk keeps a counter for each microsecond up to it."""
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Request:
    """What is sent again and again."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """What one drive showed."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    """Of the server's processes."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Requests per CPU second of the server: what other work on the core changes least."""
        return self.requests / self.cpu_seconds

    @property
    def core_share(self) -> float:
        """Share of its core that the server got, or needed."""
        return self.cpu_seconds / self.seconds


class Drive(Protocol):
    """A load generator."""

    def __call__(
        self, server: Server, request: Request, *, core: int, seconds: int, pause_ms: float = 0.0
    ) -> Load:
        """Send `request` on `CONNECTIONS` connections; raises Unavailable when one fails.

        `pause_ms` is the mean of a connection's exponential pauses before each request.
        """
        ...


def require_wrk() -> None:
    """Raise Unavailable unless wrk and taskset are installed."""
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            raise Unavailable(
                f"{program} is not on the PATH", hint=f"on Debian: apt-get install {package}"
            )


def wrk(
    server: Server, request: Request, *, core: int, seconds: int, pause_ms: float = 0.0
) -> Load:
    """Drive with wrk (a `Drive`)."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        command = ["taskset", "--cpu-list", str(core), "wrk", "--threads", "1"]
        command += ["--connections", str(CONNECTIONS), "--duration", f"{seconds}s", "--latency"]
        command += ["--timeout", f"{LATE_SECONDS}s", "--script", str(SCRIPT)]
        for name, value in request.headers.items():
            command += ["--header", f"{name}: {value}"]
        command += [server.http + request.path, "--", body.name, str(pause_ms)]
        before = server.cpu_seconds
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = server.cpu_seconds - before
    if done.returncode:
        raise Unavailable(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout.splitlines()[-1])
    if any(found["errors"].values()) or not found["requests"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in found["errors"].items())
        raise Unavailable(f"of {found['requests']} requests {counts}")
    return Load(found["requests"], found["seconds"], found["p50_ms"], found["p99_ms"], spent)
