"""What KFP 2.17 compiles without a word and then gets wrong, found in the compiled definition.

Each rule was seen by running a small pipeline that breaks it. Some of these fail late with an
unrelated message; the worst report success. What only shows with the values of a run (a quote in a
string that a condition compares, an empty loop) is caught while it runs: see `child`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tidemill.errors import ConfigError

__all__ = ["Finding", "lint", "refuse"]

Tree = Mapping[str, Any]
EXECUTOR = "kfp.dsl.executor_main"
REFERENCE = re.compile(r"inputs\.parameter_values\['([^']+)'\]")
PINNED = re.compile(r"(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)$")


class Finding(NamedTuple):
    """One thing that would go wrong."""

    rule: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.rule}]"


def lint(ir: Tree) -> list[Finding]:
    """Return what is wrong with a compiled pipeline, in the order of its parts."""
    dags = {"pipeline": ir["root"]} | {
        name: body for name, body in ir.get("components", {}).items() if "dag" in body
    }
    findings = list(_defaults(ir["root"]))
    for name, body in dags.items():
        findings += _outputs(name, body["dag"])
        for task_name, task in body["dag"]["tasks"].items():
            place = task_name if name == "pipeline" else f"{name}/{task_name}"
            findings += _task(place, task, ir["components"])
    for label, executor in ir["deploymentSpec"]["executors"].items():
        findings += _executor(label.removeprefix("exec-"), executor)
    return findings


def refuse(pipeline: str, ir: Tree) -> None:
    """Raise ConfigError if the definition breaks a rule."""
    findings = lint(ir)
    if findings:
        listed = "\n".join(f"  {finding}" for finding in findings)
        raise ConfigError(
            f"KFP would get the pipeline '{pipeline}' wrong:\n{listed}",
            hint="each rule, and what to write instead: docs/pipelines",
        )


def _task(place: str, task: Tree, components: Tree) -> Iterator[Finding]:
    inputs = task.get("inputs", {})
    condition = task.get("triggerPolicy", {}).get("condition", "")
    for name in REFERENCE.findall(condition):
        if _named_output(inputs, name):
            yield Finding(
                "named-condition",
                place,
                f"the condition on '{_channel(name)}' is always false on a local run: let the "
                "producer return that one value (`-> bool`), or add `dsl.Else()`",
            )
    literals = REFERENCE.sub("", condition)
    if literals.count("'") % 2 or "\\" in literals:
        yield Finding(
            "quoted-condition",
            place,
            f"the condition compares with a text that holds a quote or backslash:{literals}",
        )
    items = task.get("parameterIterator", {}).get("items", {}).get("inputParameter", "")
    if items and _named_output(inputs, items):
        yield Finding(
            "named-loop",
            place,
            f"the loop over '{_channel(items)}' fails: loop over a list parameter or over the "
            "single output of a task",
        )
    component = components[task["componentRef"]["name"]]
    if "dag" in component and inputs.get("artifacts") and not inputs.get("parameters"):
        yield Finding(
            "artifact-only",
            place,
            "a sub-pipeline that gets artifacts alone fails: pass one parameter too",
        )
    for name, source in inputs.get("parameters", {}).items():
        yield from _text(f"{place}.{name}", source.get("runtimeValue", {}).get("constant"))


def _named_output(inputs: Tree, name: str) -> bool:
    source = inputs.get("parameters", {}).get(name, {}).get("taskOutputParameter")
    return source is not None and source["outputParameterKey"] != "Output"


def _channel(name: str) -> str:
    return name.removeprefix("pipelinechannel--")


def _defaults(root: Tree) -> Iterator[Finding]:
    for name, spec in root.get("inputDefinitions", {}).get("parameters", {}).items():
        if spec.get("isOptional") and "defaultValue" not in spec:
            yield Finding(
                "none-default",
                name,
                "a pipeline parameter whose default is None fails when a task reads it: use "
                "'' or {}",
            )
        yield from _text(name, spec.get("defaultValue"))


def _outputs(place: str, dag: Tree) -> Iterator[Finding]:
    for name, output in dag.get("outputs", {}).get("artifacts", {}).items():
        if len(output["artifactSelectors"]) > 1:
            yield Finding(
                "oneof-artifact",
                place,
                f"dsl.OneOf of artifacts ('{_channel(name)}') fails: let one step choose",
            )


def _executor(place: str, executor: Tree) -> Iterator[Finding]:
    container = executor.get("container")
    if container is None:
        return
    command = " ".join(container.get("command", []))
    if EXECUTOR not in command:
        yield Finding(
            "container", place, "a container component does not run locally: use @dsl.component"
        )
    elif "pip install" in command:
        yield Finding(
            "pip",
            place,
            "the step installs packages whenever it starts: set install_kfp_package=False, no "
            "packages_to_install, and put them into its image",
        )
    if not PINNED.search(container["image"]):
        yield Finding(
            "mutable-image",
            place,
            f"the image '{container['image']}' has no version or digest: KFP's cache would give "
            "the results of an older image",
        )


def _text(place: str, value: object) -> Iterator[Finding]:
    if "python3" in str(value):
        yield Finding(
            "python3", place, "a local run replaces 'python3' in values by the interpreter's path"
        )
