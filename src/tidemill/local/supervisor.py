"""The supervisor: makes the processes that run equal to the processes that are declared.

Run as `python -m tidemill.local.supervisor FOLDER LOGS`. It keeps no state in memory that it
could not find again: a successor adopts what runs and goes on. SIGTERM stops every process, then
the supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx
import psutil

from tidemill.errors import Conflict, last_error
from tidemill.local.folder import PlatformFolder, Running
from tidemill.ports.processes import ProcessSpec, ProcessState, ProcessStatus

__all__ = ["Supervisor", "end_strays", "stop_process"]

MARK = "TIDEMILL_SUPERVISED"
"""Environment variable of every supervised process: the folder it belongs to."""

TICK_SECONDS = 0.1
LOCK_TRIES = 10
"""Whoever asks whether a supervisor runs holds the lock for a moment."""
STAMP_NS = 100_000_000
"""A folder's time stamp younger than this, in nanoseconds, may hide a second change: file systems
stamp with the kernel's tick, 10 ms at most."""
PROBE_SECONDS = 2.0
"""Between two probes of a process that was ready, and the longest wait for an answer."""
SILENT_PROBES = 15
"""A process that was ready and leaves this many probes in a row without any answer hangs."""
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10)
LOG_TAIL_BYTES = 4096
"""Of a log, where the reason of an end is looked for."""
HEALTHY_SECONDS = 30.0
"""A process that was ready this long starts its back-off anew."""


@dataclass(slots=True)
class Child:
    """One supervised process as the supervisor sees it."""

    running: Running
    started: float
    log_start: int
    """Where in its log, in bytes, its own words begin: at its start, or when it was adopted."""
    popen: subprocess.Popen[bytes] | None = None
    """None when it was adopted from a former supervisor."""
    ready: bool = False
    was_ready: bool = False
    probed: float = 0.0
    probe: Future[int] | None = None
    answer: int | None = None
    """What its URL answered last, an HTTP status; 0 is no answer, None is not asked yet."""
    silent: int = 0
    """Probes without an answer since the last one with."""
    stopping: float = 0.0
    """Monotonic time of SIGTERM; 0 while it should run."""

    def alive(self) -> bool:
        """Whether the process still runs; reaps it when it is our own child."""
        if self.popen is not None:
            return self.popen.poll() is None
        return self.running.process() is not None

    @property
    def hangs(self) -> bool:
        """Whether it lives, but gives no answer any more."""
        return self.was_ready and self.silent >= SILENT_PROBES

    @property
    def detail(self) -> str:
        """Why it is not ready, as far as its URL tells."""
        url = self.running.spec.ready_url
        if self.answer is None or self.ready:
            return ""
        if self.answer:
            return f"{url} answers {self.answer}"
        return f"does not answer {url} {'any more' if self.was_ready else 'yet'}"


@dataclass(slots=True)
class History:
    """Why and how often a process ended."""

    restarts: int = 0
    failures: int = 0
    retry_at: float = 0.0
    detail: str = ""
    exit_code: int | None = None


class Supervisor:
    """Level-triggered: each `step` compares what is declared with what runs."""

    def __init__(self, folder: PlatformFolder, logs: Path) -> None:
        self.folder = folder
        self.logs = logs
        self.children: dict[str, Child] = {}
        self.history: dict[str, History] = {}
        self._since: dict[str, tuple[ProcessState, str]] = {}
        self._published: dict[str, ProcessStatus] | None = None
        self._pool = ThreadPoolExecutor(4)
        self._client = httpx.Client(timeout=PROBE_SECONDS, trust_env=False)
        self._declared: tuple[int, dict[str, ProcessSpec]] = (0, {})
        logs.mkdir(parents=True, exist_ok=True)

    def adopt(self) -> None:
        """Take over the processes of a former supervisor that still run; end unrecorded ones."""
        for name, record in self.folder.running().items():
            if record.process() is None:
                self.folder.forget(name)
            else:
                self.children[name] = Child(record, time.monotonic(), _size(self._log(name)))
        end_strays(self.folder)

    def step(self) -> None:
        """Bring what runs one step closer to what is declared, and publish what is seen."""
        declared = self._read_declared()
        for name, child in list(self.children.items()):
            if not child.alive():
                stopped = child.stopping > 0 and not child.hangs
                self._ended(name, child, expected=name not in declared or stopped)
            elif declared.get(name) != child.running.spec or child.hangs:
                self._stop(child)
            else:
                self._probe(child)
        for name, spec in declared.items():
            if name not in self.children and time.monotonic() >= self._past(name).retry_at:
                self._start(spec)
        for name in self.history.keys() - declared.keys() - self.children.keys():
            del self.history[name]  # withdrawn between two tries: declared again, it starts anew
        self._publish(declared)

    def stop_all(self) -> None:
        """Stop every process, each within its grace."""
        while self.children:
            for name, child in list(self.children.items()):
                if child.alive():
                    self._stop(child)
                else:
                    self._ended(name, child, expected=True)
            self._publish({})
            time.sleep(TICK_SECONDS / 2)

    def _read_declared(self) -> dict[str, ProcessSpec]:
        """Read what should run, if the folder changed since: every change is a rename in it."""
        changed = self.folder.changed()
        if changed != self._declared[0]:
            young = time.time_ns() - changed < STAMP_NS
            self._declared = (0 if young else changed, self.folder.declared())
        return self._declared[1]

    def _past(self, name: str) -> History:
        return self.history.setdefault(name, History())

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _start(self, spec: ProcessSpec) -> None:
        taken = _holder(spec.port)
        if taken:
            self._failed(spec.name, f"port {spec.port} is taken by {taken}")
            return
        log = self._log(spec.name)
        before = _size(log)
        try:
            with log.open("ab") as output:
                popen = subprocess.Popen(
                    spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        **spec.env,
                        "PYTHONUNBUFFERED": "1",
                        MARK: str(self.folder.folder),
                    },
                    start_new_session=True,
                )
        except OSError as error:
            self._failed(spec.name, f"cannot be started: {error}")
            return
        running = Running(popen.pid, psutil.Process(popen.pid).create_time(), spec)
        self.folder.record(running)
        self.children[spec.name] = Child(running, time.monotonic(), before, popen)

    def _ended(self, name: str, child: Child, *, expected: bool) -> None:
        del self.children[name]
        self.folder.forget(name)
        _kill_group(child.running.pid, signal.SIGKILL)  # whatever it left behind
        if expected:
            self.history.pop(name, None)
            return
        past = self._past(name)
        past.restarts += 1
        if child.was_ready and time.monotonic() - child.started > HEALTHY_SECONDS:
            past.failures = 0
        if child.hangs:
            silent = f"{SILENT_PROBES} times in a row, and was restarted"
            self._failed(name, f"did not answer {child.running.spec.ready_url} {silent}")
            return
        code = child.popen.returncode if child.popen else None
        how = "ended" if code is None else f"ended with {_exit(code)}"
        self._failed(name, f"{how}{_last_words(self._log(name), child.log_start)}", code)

    def _failed(self, name: str, detail: str, exit_code: int | None = None) -> None:
        past = self._past(name)
        past.exit_code = exit_code
        wait = BACKOFF_SECONDS[min(past.failures, len(BACKOFF_SECONDS) - 1)]
        past.failures += 1
        past.retry_at = time.monotonic() + wait
        past.detail = detail

    def _stop(self, child: Child) -> None:
        now = time.monotonic()
        if not child.stopping:
            child.stopping = now
            _kill_group(child.running.pid, signal.SIGTERM)
        elif now - child.stopping > child.running.spec.grace_seconds:
            _kill_group(child.running.pid, signal.SIGKILL)

    def _probe(self, child: Child) -> None:
        url = child.running.spec.ready_url
        if not url:
            child.ready = child.was_ready = True
        elif child.probe is not None:
            if child.probe.done():
                child.answer, child.probe = child.probe.result(), None
                child.ready = child.answer == httpx.codes.OK
                child.was_ready |= child.ready
                child.silent = 0 if child.answer else child.silent + 1
        elif not child.was_ready or time.monotonic() - child.probed > PROBE_SECONDS:
            child.probed = time.monotonic()
            child.probe = self._pool.submit(_answer, self._client, url)

    def _publish(self, declared: dict[str, ProcessSpec]) -> None:
        seen: dict[str, ProcessStatus] = {}
        for name in sorted({*declared, *self.children}):
            child, past = self.children.get(name), self._past(name)
            state: ProcessState = "backoff"
            if child:
                state = "stopping" if child.stopping else "ready" if child.ready else "starting"
            if name not in self._since or self._since[name][0] != state:
                self._since[name] = (state, datetime.now(UTC).isoformat(timespec="milliseconds"))
            pid = child.running.pid if child else 0
            seen[name] = ProcessStatus(
                name=name,
                state=state,
                pid=pid,
                restarts=past.restarts,
                since=self._since[name][1],
                detail="" if state == "ready" else _detail(child, past),
                failures=past.failures,
                exit_code=None if child and child.was_ready else past.exit_code,
            )
        if seen != self._published:
            self.folder.publish(seen)
            self._published = seen


def stop_process(running: Running) -> None:
    """Stop a process whose supervisor is gone: SIGTERM to its group, SIGKILL after its grace."""
    _kill_group(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + running.spec.grace_seconds
    while running.process() is not None and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)
    _kill_group(running.pid, signal.SIGKILL)


def end_strays(folder: PlatformFolder) -> None:
    """End processes of this folder that were started and never recorded: a crash in between."""
    known = {record.pid for record in folder.running().values()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            ours = process.environ().get(MARK) == str(folder.folder)
            if ours and process.pid not in known and os.getpgid(process.pid) == process.pid:
                _kill_group(process.pid, signal.SIGKILL)


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _detail(child: Child | None, past: History) -> str:
    if child is None or not child.was_ready:
        return past.detail or (child.detail if child else "")
    return child.detail


def _answer(client: httpx.Client, url: str) -> int:
    try:
        return client.get(url).status_code
    except httpx.HTTPError:
        return 0


def _holder(port: int) -> str:
    """Name the holder of a loopback port, or '' when it is free."""
    if not port:
        return ""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            for connection in psutil.net_connections("tcp"):
                listening = connection.status == psutil.CONN_LISTEN
                if listening and getattr(connection.laddr, "port", 0) == port and connection.pid:
                    return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
            return "another process"
    return ""


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _last_words(log: Path, start: int) -> str:
    """Return the error that a command of ours ended with, or else the last line, from a byte on."""
    with log.open("rb") as file:
        file.seek(max(start, _size(log) - LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace").strip()
    if error := last_error(text):
        return f": {error}"
    lines = text.splitlines()
    return f"; last line: {lines[-1][:300] if lines else '(nothing was printed)'}"


def serve(folder: PlatformFolder, logs: Path, stopped: Callable[[], bool]) -> None:
    """Supervise until `stopped`; raises Conflict when another supervisor holds the folder."""
    with folder.lock.open("a+") as lock:
        _hold(lock)
        lock.truncate(0)
        folder.publish({})  # what a predecessor saw is no news
        lock.write(str(os.getpid()))
        lock.flush()
        supervisor = Supervisor(folder, logs)
        supervisor.adopt()
        while not stopped():
            supervisor.step()
            time.sleep(TICK_SECONDS)
        supervisor.stop_all()


def _hold(lock: IO[str]) -> None:
    for _ in range(LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(TICK_SECONDS)
    raise Conflict(f"another supervisor holds {lock.name}", hint="stop it first: tidemill down")


def _main() -> None:
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stop.append(got))
    serve(PlatformFolder(Path(sys.argv[1])), Path(sys.argv[2]), lambda: bool(stop))


if __name__ == "__main__":
    _main()
