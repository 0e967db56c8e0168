"""A warm interpreter: what the steps of a run import is imported once, and a step is a fork of it.

Every step stays a process of its own, in the run's session, with its own log and end. It only
begins behind the imports, which were 20 of the 54 CPU seconds of a training with 14 steps. What a
step imports is imported for it if it has not been yet, and what later ones do while it runs.
"""

from __future__ import annotations

import ast
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

__all__ = ["Fork", "Warm", "imports_of"]

START = (
    'program_path=$(mktemp -d) printf "%s" "$0" > "$program_path/ephemeral_component.py" '
    "_KFP_RUNTIME=true {python} -m kfp.dsl.executor_main "
    '--component_module_path "$program_path/ephemeral_component.py" "$@"'
)
"""The script with which KFP 2.17 starts a lightweight component, white space aside; `_run` does
what it says. A step that starts in any other way starts cold."""
AT_FIRST_USE = {
    "tidemill.steps.train": ("torch._dynamo",),  # the optimiser
    "tidemill.steps.export": (
        "torch.export._trace",
        "torch.onnx._internal.exporter._core",
        "onnxscript.function_libs.torch_lib.ops",
        "sympy.tensor.tensor",
    ),
}
"""What a module's libraries import when they are first used: two CPU seconds of a training."""
EXECUTOR = "kfp.dsl.executor_main"
FORKED = b"+"
"""What the interpreter answers when a step has begun; it answers nothing when it cannot fork."""
MESSAGE = 1 << 17
"""Most bytes of a request; a longer one, which KFP would refuse as well, starts cold."""


class Warm:
    """The interpreter, as the process that runs the pipeline sees it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Fork it: this process must have no second thread yet.

        `environment` is that of the steps; libraries read it when they are imported.
        """
        self.environment = dict(environment)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = os.fork()
        if self._process == 0:
            try:
                _live(theirs, self.environment)
            except BaseException:  # noqa: BLE001 - this must not return to the pipeline
                traceback.print_exc()
            finally:
                _reap()
                os._exit(0)
        theirs.close()

    def end(self) -> None:
        """Wait for its end, so that its CPU time and that of the steps count as this process'."""
        self._control.close()
        os.waitpid(self._process, 0)

    def prepare(self, modules: Sequence[str]) -> None:
        """Let it import these, in their order, while no step is asked for."""
        self._control.send(json.dumps(modules).encode())

    def begin(self, command: Sequence[str], env: Mapping[str, str]) -> Fork | None:
        """Begin a step behind what it imports; None when it must start cold."""
        script, code, *arguments = command[2:]
        known = script.split() == START.format(python=sys.executable).split()
        if not known or env != self.environment:
            return None
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        with suppress(OSError):  # too long, or the interpreter was killed
            request = json.dumps([code, *arguments]).encode()
            socket.send_fds(self._control, [request], [write, theirs.fileno()])
        os.close(write)
        theirs.close()
        if ours.recv(len(FORKED)):
            return Fork(read, ours)
        os.close(read)
        ours.close()
        return None


class Fork:
    """One step's process, forked from the warm interpreter."""

    def __init__(self, output: int, report: socket.socket) -> None:
        self.output = open(output, errors="replace")  # noqa: SIM115 - closed by wait
        self._report = report

    def wait(self) -> tuple[int, float]:
        """Return the exit code, negative for a signal, and the CPU seconds."""
        with self.output, self._report:
            told = self._report.recv(MESSAGE)
        code, seconds = json.loads(told) if told else (-signal.SIGKILL, 0.0)
        return int(code), float(seconds)


def imports_of(sources: Sequence[str]) -> list[str]:
    """Return the modules that components import, from their sources, in order."""
    found: dict[str, None] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= dict.fromkeys(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module] = None
    return list(found)


def _live(control: socket.socket, environment: Mapping[str, str]) -> None:
    """Import what is asked for, then fork a step whenever one is asked for, until nobody asks."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ |= {**environment, "_KFP_RUNTIME": "true"}
    later: deque[str] = deque()
    counted = 0.0
    while True:
        if later and not select.select([control], [], [], 0)[0]:
            _import(later.popleft())
            continue
        request, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 2)
        if not request:
            return
        if not descriptors:
            later.extend(_with_first_use(json.loads(request)))
            continue
        code, *arguments = json.loads(request)
        for name in _with_first_use(imports_of([code])):
            _import(name)
        if threading.active_count() > 1:  # a fork would lose them, and keep what they had locked
            return
        gc.freeze()
        imports, counted = time.process_time() - counted, time.process_time()
        if os.fork() == 0:
            control.close()
            _attend([code, *arguments], imports, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _reap() -> None:
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _with_first_use(modules: Iterable[str]) -> Iterator[str]:
    for name in modules:
        yield name
        yield from AT_FIRST_USE.get(name, ())


def _import(name: str) -> None:
    # Whatever is wrong with it: the step that imports it says so.
    with suppress(Exception):
        importlib.import_module(name)


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
