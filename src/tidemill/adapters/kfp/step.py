"""One step of a local run: its process, its log, its times, what it failed of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from tidemill.adapters.kfp.memo import Memo
from tidemill.adapters.kfp.record import RunFolder
from tidemill.adapters.kfp.warm import Warm

__all__ = ["Steps", "cause_of", "without_colour"]

TAIL = 400
"""Lines kept in memory of a running step: the traceback is among the last."""
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
EXECUTOR_NOISE = re.compile(
    r"\[KFP Executor .*\]: (Looking for component `|Loading KFP component \"|Wrote executor output"
    r"|Did not write output file)"
)
EXECUTOR_INPUT = re.compile(r"\[KFP Executor .*\]: Got executor_input:")


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
            for line in _without_noise(process.output):
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


def _without_noise(lines: Iterable[str]) -> Iterator[str]:
    """Drop what KFP's executor tells about itself, and colours."""
    in_request = False
    for line in lines:
        if EXECUTOR_INPUT.match(line):
            in_request = True
        elif in_request:
            in_request = line.rstrip() != "}"
        elif not EXECUTOR_NOISE.match(line):
            yield without_colour(line)


def without_colour(text: str) -> str:
    """Return `text` without terminal escapes."""
    return COLOUR.sub("", text)


def cause_of(lines: Iterable[str], code: int) -> str:
    """Return the last exception of a step's output, or how its process ended."""
    listed = list(lines)
    starts = [i for i, line in enumerate(listed) if line.startswith("Traceback (most recent call")]
    body = iter(listed[starts[-1] + 1 :] if starts else [])
    for line in body:
        if re.match(r"[A-Za-z_][\w.]*(:|$)", line):
            name, colon, message = line.partition(":")
            more = takewhile(lambda extra: extra.startswith("  "), body)
            return "\n".join([name.rpartition(".")[2] + colon + message, *more])
    if code < 0 or code > 128:
        return f"killed by signal {-code if code < 0 else code - 128}"
    last = next((line for line in reversed(listed) if line.strip()), "")
    return f"exit code {code}: {last.strip()}" if last else f"exit code {code}, no output"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
