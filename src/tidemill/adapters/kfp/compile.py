"""From `pipelines/<name>.py` to the compiled definition, with the execution settings applied."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from tidemill.adapters.kfp.profile import Target, apply
from tidemill.adapters.kfp.sdk import compiler, dsl
from tidemill.errors import ConfigError, UsageError
from tidemill.settings.execution import ExecutionSettings

__all__ = ["Definition", "compile_pipeline", "pipelines_of", "step_names"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A compiled pipeline."""

    name: str
    graph: Any
    """kfp's component of the whole pipeline."""

    @property
    def ir(self) -> dict[str, Any]:
        """The pipeline spec as plain data."""
        body: dict[str, Any] = MessageToDict(self.graph.pipeline_spec)
        return body

    @property
    def sources(self) -> list[str]:
        """The code of the steps, in the order of `step_names`; that of loops comes last."""
        ir = self.ir
        executors = ir["deploymentSpec"]["executors"]
        known = [ir["components"][f"comp-{step}"]["executorLabel"] for step in step_names(ir)]
        every = [executors[label] for label in dict.fromkeys([*known, *executors])]
        return [one["container"]["command"][-1] for one in every if "container" in one]

    def write(self, path: Path) -> Path:
        """Write the YAML that every KFP backend takes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(self.graph, str(path))
        return path


def pipelines_of(root: Path) -> list[str]:
    """Return the names of a project's pipelines."""
    return sorted(p.stem for p in (root / "pipelines").glob("*.py") if not p.stem.startswith("_"))


def compile_pipeline(
    root: Path, name: str, execution: ExecutionSettings, target: Target
) -> Definition:
    """Build the pipeline `name`: the object of that name in `pipelines/<name>.py`.

    Imports the project's own `pipelines` and `components`: one process compiles one project.
    Raises UsageError for an unknown pipeline, ConfigError when its code does not build.
    """
    if name not in pipelines_of(root):
        raise UsageError.among("pipeline", name, pipelines_of(root))
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
        return Definition(name, _build(pipeline, execution, target))
    except Exception as error:
        raise ConfigError(
            f"pipelines/{name}.py does not build: {type(error).__name__}: {error}",
            hint="see docs/pipelines for what KFP accepts in a pipeline or component",
        ) from error


def _build(pipeline: Any, execution: ExecutionSettings, target: Target) -> Any:
    @functools.wraps(pipeline.pipeline_func)
    def configured(*args: Any, **kwargs: Any) -> Any:
        result = pipeline.pipeline_func(*args, **kwargs)
        apply(execution, target)
        return result

    return dsl.pipeline(name=pipeline.name, description=pipeline.description)(configured)


def step_names(ir: Mapping[str, Any], dag: str = "") -> Iterator[str]:
    """Yield the steps in an order in which they can run; those of loops are left out.

    Of two that can run after as many others, the one with the longer chain behind it comes first.
    `dag` is a component that is a graph itself; by default the whole pipeline.
    """
    tasks = (ir["components"][dag] if dag else ir["root"])["dag"]["tasks"]

    before = {name: tasks[name].get("dependentTasks", []) for name in tasks}
    behind = {name: [other for other in tasks if name in before[other]] for name in tasks}

    @functools.cache
    def chain(name: str, *, forward: bool) -> int:
        others = (behind if forward else before)[name]
        return 1 + max((chain(other, forward=forward) for other in others), default=0)

    def place(name: str) -> tuple[int, int, str]:
        return chain(name, forward=False), -chain(name, forward=True), name

    for name in sorted(tasks, key=place):
        component = tasks[name]["componentRef"]["name"]
        if "dag" not in ir["components"][component]:
            yield component.removeprefix("comp-")
        elif "parameterIterator" not in tasks[name]:
            yield from step_names(ir, component)
