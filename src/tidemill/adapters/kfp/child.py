"""The process of one local run: `python -m tidemill.adapters.kfp.child FOLDER`.

KFP's local runner keeps its state in module globals, prints to standard output and leaves files
behind: it gets a process, a session and a temporary folder of its own.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tidemill import errors
from tidemill.adapters.kfp.ahead import run_ahead
from tidemill.adapters.kfp.compile import Definition, compile_pipeline, step_names
from tidemill.adapters.kfp.imports import imports_of
from tidemill.adapters.kfp.lint import refuse
from tidemill.adapters.kfp.memo import Memo, version_of
from tidemill.adapters.kfp.parameters import bind
from tidemill.adapters.kfp.printed import is_refusal, without_colour
from tidemill.adapters.kfp.record import RunFolder
from tidemill.adapters.kfp.sdk import components, local
from tidemill.adapters.kfp.step import Steps
from tidemill.adapters.kfp.warm import Warm
from tidemill.priority import keep_priority
from tidemill.settings.execution import ExecutionSettings

__all__ = ["main"]

SILENT = re.compile(r"Could not resolve|Condition evaluation failed")
"""KFP logs these and goes on, with the condition taken as false."""


class Plain:
    """The standard output without colours; keeps what must fail the run."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.silent_failures: list[str] = []

    def write(self, text: str) -> int:
        """Write without colours."""
        if SILENT.search(text) and " | " not in text:
            self.silent_failures.append(without_colour(text).strip())
        return self.stream.write(without_colour(text))

    def flush(self) -> None:
        """Flush the stream beneath."""
        self.stream.flush()


def main() -> None:
    """Run what the folder asks for and record how it ended."""
    keep_priority()  # that of whoever asked for the run: it has a session of its own
    folder = RunFolder(Path(sys.argv[1]))
    execution = ExecutionSettings.model_validate(folder.request()["execution"])
    warm = Warm(execution.environment) if execution.warm and sys.platform == "linux" else None
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    output = Plain(sys.stdout)
    sys.stdout = sys.stderr = output
    try:
        folder.append("ended", **_run(folder, execution, warm, output))
    except errors.TidemillError as error:
        folder.append(
            "ended",
            state="failed",
            cause=error.message,
            error={"type": type(error).__name__, "message": error.message, "hint": error.hint},
        )


def _end_with_parent() -> None:
    # The parent holds the other end of this pipe and never writes: the read ends when it dies.
    os.read(0, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _run(
    folder: RunFolder, execution: ExecutionSettings, warm: Warm | None, output: Plain
) -> dict[str, Any]:
    request = folder.request()
    root = Path(request["root"])
    definition = compile_pipeline(root, request["pipeline"], execution, "local")
    ir = definition.ir
    refuse(request["pipeline"], ir)
    parameters = bind(request["pipeline"], ir, request["parameters"], request["context"])
    folder.append("planned", steps=list(step_names(ir)), parameters=parameters)
    if request["dry_run"]:
        return {"state": "planned", "cause": ""}
    if warm:
        warm.prepare([imports_of(source) for source in definition.sources])
    steps = Steps(
        folder, Memo(folder.file("memo"), version_of(root, folder.file("settings.json"))), warm
    )
    with run_ahead(execution.parallel_steps):
        cause, outputs = _execute(folder, definition, steps, parameters)
    if warm:
        warm.end()
    return _verdict(folder, cause, outputs, output.silent_failures)


def _execute(
    folder: RunFolder,
    definition: Definition,
    steps: Steps,
    parameters: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Run the pipeline; return what KFP fails of, if it does, and the pipeline's outputs."""
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.run_local_subprocess = steps.run
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.file("artifacts")),
        # KFP removes this folder after every run, whatever is in it.
        workspace_root=str(folder.file("workspace")),
    )
    pipeline = components.load_component_from_file(
        str(definition.write(folder.file("pipeline.yaml")))
    )
    try:
        outputs = pipeline(**parameters).outputs
    except Exception as error:  # noqa: BLE001 - KFP raises bare RuntimeError and ValueError
        return f"{type(error).__name__}: {without_colour(str(error))}", {}
    return "", {name: _plain(value) for name, value in outputs.items()}


def _verdict(
    folder: RunFolder, cause: str, outputs: dict[str, Any], silent: list[str]
) -> dict[str, Any]:
    failed = [step for step in folder.result().steps if step.state == "failed"]
    if failed:
        refused = is_refusal(failed[0].cause)
        cause = f"{failed[0].name}: {failed[0].cause}"
        return {"state": "refused" if refused else "failed", "cause": cause}
    if silent:
        cause = f"KFP could not evaluate a condition and went on: {silent[0]}"
    return {"state": "failed" if cause else "succeeded", "cause": cause, "outputs": outputs}


def _plain(value: Any) -> Any:
    return getattr(value, "uri", value)


if __name__ == "__main__":
    main()
