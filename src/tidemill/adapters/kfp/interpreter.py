"""The other side of `warm`: a process that imports, and forks steps behind what it has imported."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tidemill.adapters.kfp.imports import imports_of

__all__ = ["FORKED", "MESSAGE", "live"]

FORKED = b"+"
"""What the interpreter answers when a step has begun; it answers nothing when it cannot fork."""
MESSAGE = 1 << 17
"""Most bytes of a request; a longer one starts cold."""
READY = b"!"
"""What a successor says when it could take over; it does at the answer."""
EXECUTOR = "kfp.dsl.executor_main"


def live(control: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Import and fork steps as `control` asks, until it closes; then wait for them, and end."""
    try:
        _settle(control, environment)
        Interpreter(control).serve()
    except BaseException:  # noqa: BLE001 - this must not return to the pipeline
        traceback.print_exc()
    finally:
        # Whoever still holds `control` seems to listen: requests must fail when nobody does.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        _reap()
        os._exit(0)


def _settle(control: socket.socket, environment: Mapping[str, str]) -> None:
    """Let go of all that the pipeline's process has open, and take the steps' environment."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ |= {**environment, "_KFP_RUNTIME": "true"}


def _reap() -> None:
    with suppress(ChildProcessError):
        while True:
            os.wait()


class Interpreter:
    """Imports what is asked for and forks steps, until nobody asks or its successor does both."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._later: deque[list[str]] = deque()
        self._failed: set[str] = set()
        self._held: list[tuple[list[str], list[int]]] = []
        """Steps, and their descriptors, for which a successor imports what they need."""
        self._successor: tuple[int, socket.socket] | None = None
        self._counted = 0.0
        self._owed = 0.0
        """CPU seconds of imports before this process that no step was charged with."""

    def serve(self) -> None:
        """Do what is asked for; nothing is waited for that was forked."""
        while self._turn():
            pass
        if self._successor:
            os.kill(self._successor[0], signal.SIGKILL)

    def _turn(self) -> bool:
        """Do the next thing; False when there is nothing more for this process."""
        if threading.active_count() > 1:  # a fork would lose them, and keep what they had locked
            return False
        if self._successor:
            asked = self._control in select.select([self._control, self._successor[1]], [], [])[0]
            return self._answer() if asked else not self._hand_over()
        if self._held:
            self._begin(*self._held.pop(0))
            return True
        if self._later and not select.select([self._control], [], [], 0)[0]:
            group = [name for name in self._later.popleft() if name not in sys.modules]
            if group:
                self._fork_successor(group)
            return True
        return self._answer()

    def _fork_successor(self, group: list[str]) -> None:
        """Let a fork import; it returns from here as well, when it has taken over."""
        ours, theirs = socket.socketpair()
        gc.freeze()
        if process := os.fork():
            theirs.close()
            self._successor = process, ours
            return
        ours.close()
        self._counted = 0.0
        for name in group:
            self._import(name)
        if threading.active_count() > 1:  # unfit to fork, while its predecessor is not
            os._exit(0)
        with theirs:
            theirs.send(READY)
            owed = theirs.recv(MESSAGE)
        if not owed:
            os._exit(0)
        self._owed = float(owed)

    def _hand_over(self) -> bool:
        """Wait for the successor and let it go on; False if an import was its end."""
        assert self._successor
        with self._successor[1] as successor:
            self._successor = None
            if successor.recv(len(READY)):
                successor.send(str(self._charge()).encode())
                return True
        return False

    def _answer(self) -> bool:
        """Do what is asked for, what it needs imported by a successor, as others need not wait.

        False when nobody asks any more, and when the successor does it.
        """
        peeked = self._control.recv(MESSAGE, socket.MSG_PEEK)
        asked = json.loads(peeked or "{}")
        step = asked.get("step", [""])
        needed = self._missing(step[0])
        if self._successor and (needed or "later" in asked) and self._hand_over():
            return False
        _, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE, 2)
        self._later.extend(asked.get("later", []))
        if needed:
            self._held.append((step, descriptors))
            self._fork_successor(needed)
        elif "step" in asked:
            self._begin(step, descriptors)
        return bool(peeked)

    def _missing(self, code: str) -> list[str]:
        known = self._failed | sys.modules.keys()
        return [name for name in imports_of(code) if name not in known]

    def _begin(self, step: list[str], descriptors: list[int]) -> None:
        """Fork a step, behind what it imports; it starts cold if that was a successor's end."""
        if not self._missing(step[0]):
            self._fork_step(step, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork_step(self, request: list[str], output: int, report: int) -> None:
        imports = self._charge()
        gc.freeze()
        if os.fork() == 0:
            self._control.close()
            if self._successor:
                self._successor[1].close()
            for descriptor in (d for _, held in self._held for d in held):
                os.close(descriptor)
            _attend(request, imports, output, report)

    def _import(self, name: str) -> None:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - the step that imports it says what is wrong
            self._failed.add(name)

    def _charge(self) -> float:
        """Return the CPU seconds of imports since this was last asked."""
        spent = time.process_time() - self._counted + self._owed
        self._counted, self._owed = time.process_time(), 0.0
        return spent


def _attend(request: list[str], imports: float, output: int, report: int) -> NoReturn:
    """Fork the step, wait for its end, and report that; `imports` counts as its CPU time."""
    step = os.fork()
    if step == 0:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, max(output, report) + 1)
        _run(*request)
    os.write(report, FORKED)
    os.close(output)
    _, status, usage = os.wait4(step, 0)
    told = [os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime + imports]
    with suppress(BrokenPipeError):
        os.write(report, json.dumps(told).encode())
    os._exit(0)


def _run(code: str, *arguments: str) -> NoReturn:
    """Do what KFP's script does, in this process."""
    status = 1
    try:
        program = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
        program.write_text(code)
        sys.argv = [EXECUTOR, "--component_module_path", str(program), *arguments]
        runpy.run_module(EXECUTOR, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
