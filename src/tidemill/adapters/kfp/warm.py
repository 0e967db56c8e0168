"""A warm interpreter: what the steps of a run import is imported once, and a step is a fork of it.

Every step stays a process of its own, in the run's session, with its own log and end. It only
begins behind the imports, which were 20 of the 54 CPU seconds of a training with 14 steps. What a
step imports is imported for it if it has not been yet, and what later ones do while it runs: always
in a fork, the successor, which takes over when it is done. So a step whose imports are there waits
for nobody's, unless a second one needs imports meanwhile: both wait for the successor then.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tidemill.adapters.kfp.interpreter import FORKED, MESSAGE, live

__all__ = ["Fork", "Warm"]

START = (
    'program_path=$(mktemp -d) printf "%s" "$0" > "$program_path/ephemeral_component.py" '
    "_KFP_RUNTIME=true {python} -m kfp.dsl.executor_main "
    '--component_module_path "$program_path/ephemeral_component.py" "$@"'
)
"""The script with which KFP 2.17 starts a lightweight component, white space aside; the interpreter
does what it says. A step that starts in any other way starts cold."""


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
            live(theirs, self.environment)
        theirs.close()

    def end(self) -> None:
        """Wait for its end, so that its CPU time and that of the steps count as this process'."""
        self._control.close()
        os.waitpid(self._process, 0)

    def prepare(self, groups: Sequence[Sequence[str]]) -> None:
        """Let it import groups of modules, in their order, while no step is asked for.

        A step that needs anything else waits for the group that is being imported.
        """
        with suppress(OSError):  # the interpreter was killed
            self._control.send(json.dumps({"later": groups}).encode())

    def begin(self, command: Sequence[str], env: Mapping[str, str]) -> Fork | None:
        """Begin a step behind what it imports; None when it must start cold."""
        script, code, *arguments = command[2:]
        known = script.split() == START.format(python=sys.executable).split()
        request = json.dumps({"step": [code, *arguments]}).encode()
        if not known or env != self.environment or len(request) > MESSAGE:
            return None
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        with suppress(OSError):  # the interpreter was killed
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
