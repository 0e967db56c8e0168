"""Supervised processes of the local platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = ["ProcessSpec", "ProcessState", "ProcessStatus", "Processes"]

ProcessState = Literal["starting", "ready", "backoff", "stopping"]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process that should run until it is withdrawn."""

    name: str
    """Unique name, `[a-z0-9-]+`; also the name of its log file."""
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's environment."""
    ready_url: str = ""
    """The process is ready when this URL answers 200; empty means as soon as it runs."""
    grace_seconds: float = 10.0
    """Time between SIGTERM and SIGKILL when it is stopped."""
    port: int = 0
    """The port it serves, for `tidemill status`; 0 means none."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the supervisor last saw of a process."""

    name: str
    state: ProcessState
    pid: int
    restarts: int
    """Restarts since its supervisor began; never decays."""
    since: str
    """Instant of the last change of state, ISO 8601 UTC, wall clock."""
    detail: str = ""
    """Why it is not ready: exit code and its last error or line, or what its URL answers."""
    failures: int = 0
    """Failures in a row: it starts at 0 again after the process was healthy for a while."""
    exit_code: int | None = None
    """Of its last end, negative for a signal, until it is ready again; None: it did not end."""


class Processes(Protocol):
    """The set of processes that should run; level-triggered: declare what should be."""

    def declare(self, spec: ProcessSpec) -> None:
        """Make `spec` run: start it, or restart it if its specification changed."""
        ...

    def withdraw(self, name: str) -> None:
        """Stop the process and forget it; an unknown name is no error."""
        ...

    def statuses(self) -> dict[str, ProcessStatus]:
        """Return what was last seen of every declared process, by name."""
        ...
