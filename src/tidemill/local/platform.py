"""Up, down, status: the platform's commands, whoever supervises it at the moment."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tidemill.errors import Timeout, Unavailable
from tidemill.local.folder import PlatformFolder
from tidemill.local.supervisor import end_strays, stop_process
from tidemill.ports.processes import ProcessSpec, ProcessStatus

__all__ = ["Platform"]

DOWN_SECONDS = 60.0
"""How long the supervisor may take to stop all before it is killed and the rest is done here."""


class Platform:
    """The supervised processes of one project."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.processes = PlatformFolder(folder)
        self.logs = logs

    def supervisor(self) -> int:
        """Return the supervisor's pid, or 0 when none runs."""
        if not self.processes.lock.exists():
            return 0
        with self.processes.lock.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0)
        return 0

    def up(
        self,
        specs: Iterable[ProcessSpec],
        *,
        timeout: float = 180.0,
        watch: Callable[[dict[str, ProcessStatus]], None] = lambda _: None,
    ) -> dict[str, ProcessStatus]:
        """Declare `specs`, start or attach to a supervisor, wait until all are ready.

        Raises Unavailable as soon as a process keeps failing, naming it and its log's last line;
        Timeout when some are not ready after `timeout` seconds.
        """
        return self.wait(self.begin(specs), timeout=timeout, watch=watch)

    def begin(self, specs: Iterable[ProcessSpec]) -> list[str]:
        """Declare `specs` and start or attach to a supervisor; return the names, not waited for."""
        names = []
        for spec in specs:
            self.processes.declare(spec)
            names.append(spec.name)
        self.attach()
        return names

    def attach(self) -> None:
        """Start a supervisor unless one runs, and wait until it has taken over.

        Until then the status is that of its predecessor, and `down` would not see it.
        """
        if self.supervisor():
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        log = str(self.logs / "supervisor.log")
        module = "tidemill.local.supervisor"
        argv = [sys.executable, "-m", module, str(self.processes.folder), str(self.logs)]
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(  # not Popen: it outlives this process on purpose
            sys.executable,
            argv,
            os.environ,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        while not self.supervisor():
            if os.waitpid(pid, os.WNOHANG)[0] and not self.supervisor():
                raise Unavailable("the supervisor ended at once", hint=f"its log: {log}")
            time.sleep(0.05)

    def wait(
        self,
        names: Iterable[str],
        *,
        timeout: float = 180.0,
        watch: Callable[[dict[str, ProcessStatus]], None] = lambda _: None,
    ) -> dict[str, ProcessStatus]:
        """Wait until the named processes are ready; raises as `up` does."""
        wanted = list(names)
        deadline = time.monotonic() + timeout
        while True:
            seen = self.processes.statuses()
            watch(seen)
            late = [name for name in wanted if name not in seen or seen[name].state != "ready"]
            if not late:
                return seen
            for name in late:
                status = seen.get(name)
                if status and status.state == "backoff" and _hopeless(status):
                    raise Unavailable(
                        f"'{name}' does not start: {status.detail}",
                        hint=f"its log: {self.logs / f'{name}.log'}",
                    )
            if time.monotonic() > deadline:
                raise Timeout(
                    f"not ready after {timeout:.0f} s: {', '.join(late)}",
                    hint=f"their logs are in {self.logs}; `tidemill status` shows what was seen",
                )
            time.sleep(0.05)

    def down(self) -> list[str]:
        """Stop every process and the supervisor; return the names of what was stopped.

        Finds everything also after the supervisor was killed.
        """
        names = sorted({*self.processes.running(), *self.processes.declared()})
        pid = self.supervisor()
        if pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + DOWN_SECONDS
            while self.supervisor():
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.05)
        for name, running in self.processes.running().items():
            if running.process() is not None:
                stop_process(running)
            self.processes.forget(name)
        end_strays(self.processes)
        for name in self.processes.declared():
            self.processes.withdraw(name)
        self.processes.publish({})
        return names


def _hopeless(status: ProcessStatus) -> bool:
    return status.failures >= 3 or "is taken by" in status.detail
