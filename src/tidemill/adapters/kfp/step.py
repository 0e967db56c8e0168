"""One step of a local run: its process, its log, its times, what it failed of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.adapters.kfp.memo import Memo
from tidemill.adapters.kfp.printed import cause_of, without_noise
from tidemill.adapters.kfp.record import RunFolder
from tidemill.adapters.kfp.warm import Warm

__all__ = ["Steps"]

TAIL = 400
"""Lines kept in memory of a running step: the traceback is among the last."""


class Steps:
    """Runs the commands that KFP's local runner hands over, one process per step."""

    def __init__(self, folder: RunFolder, memo: Memo, warm: Warm | None) -> None:
        self.folder = folder
        self.memo = memo
        self.warm = warm
        self._print = threading.Lock()

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run one step and return its exit code; takes the place of kfp's `run_local_subprocess`.

        KFP's own prints the step's output and keeps neither log nor times. Two iterations of a
        loop come here at the same time, in two threads.
        """
        at = full_command.index("--executor_input") + 1
        request = json.loads(full_command[at])
        written = Path(request["outputs"]["outputFile"]).relative_to(self.folder.file("artifacts"))
        # <pipeline>-<time>/[<loop>-iteration-<n>/]<step>/executor_output.json
        name = "/".join(written.parts[1:-1])
        log = self.folder.file("logs") / f"{name.replace('/', '.')}.log"
        fields: dict[str, Any] = {"name": name, "log": str(log), "started_at": _now()}
        # The name too: a step that a pipeline runs twice is two executions.
        call = "\0".join([name, *full_command[:at], *full_command[at + 1 :]])
        key = self.memo.key(call, request, env_vars or {})
        if self.memo.restore(key, request):
            self.folder.append("step", state="reused", outputs=_outputs(request), **fields)
            return 0
        self.memo.begin(key, request)
        self.folder.append("step", state="running", **fields)
        code, cause, times = self._process(full_command, env_vars or {}, name, log)
        if code == 0:
            self.memo.keep(key, request)
        state = "failed" if code else "succeeded"
        ended = {"cause": cause, "outputs": _outputs(request), **times, **fields}
        self.folder.append("step", state=state, **ended)
        return code

    def _process(
        self, command: Sequence[str], env: dict[str, str], name: str, log: Path
    ) -> tuple[int, str, dict[str, float]]:
        log.parent.mkdir(exist_ok=True)
        began = time.monotonic()
        tail: deque[str] = deque(maxlen=TAIL)
        with log.open("a") as file:
            process = (self.warm and self.warm.begin(command, env)) or Cold(command, env)
            for line in without_noise(process.output):
                file.write(line)
                file.flush()
                tail.append(line.rstrip("\n"))
                with self._print:
                    sys.stdout.write(f"{name} | {line}")
        code, seconds = process.wait()
        times = {
            "wall_seconds": round(time.monotonic() - began, 3),
            "cpu_seconds": round(seconds, 3),
        }
        return code, cause_of(tail, code) if code else "", times


class Cold:
    """One step's process, begun with an interpreter of its own; like `warm.Fork`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **env},
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout

    def wait(self) -> tuple[int, float]:
        """Return the exit code, negative for a signal, and the CPU seconds."""
        self.output.close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode, usage.ru_utime + usage.ru_stime


def _outputs(request: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a step returned; none after a failure."""
    file = Path(request["outputs"]["outputFile"])
    values = json.loads(file.read_text()).get("parameterValues", {}) if file.exists() else {}
    return dict(values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
