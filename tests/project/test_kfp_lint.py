"""Each rule of the lint finds a pipeline that breaks it, and nothing else in it."""

from typing import NamedTuple, Optional

import pytest
from google.protobuf.json_format import MessageToDict

from tidemill.adapters.kfp.lint import lint, refuse
from tidemill.adapters.kfp.sdk import dsl
from tidemill.errors import ConfigError

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)


@step
def flag() -> bool:
    return True


@step
def two() -> NamedTuple("Two", [("ok", bool), ("items", list)]):
    return True, []


@step
def make(text: str, out: dsl.Output[dsl.Dataset]) -> None:
    pass


@step
def say(text: str = "") -> None:
    pass


@step
def eat(data: dsl.Input[dsl.Dataset]) -> None:
    pass


@dsl.component(base_image="tidemill/train:latest", install_kfp_package=False)
def floating() -> None:
    pass


@dsl.component(base_image="tidemill/train:1.0")
def installing() -> None:
    pass


@dsl.container_component
def container() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="busybox:1.36", command=["true"])


@dsl.pipeline(name="inner")
def inner(data: dsl.Input[dsl.Dataset]) -> None:
    eat(data=data)


def named_condition() -> None:
    judged = two()
    with dsl.If(judged.outputs["ok"] == True):  # noqa: E712
        say(text="yes")


def named_loop() -> None:
    listed = two()
    with dsl.ParallelFor(listed.outputs["items"]) as item:
        say(text=item)


def quoted_condition(mood: str = "good") -> None:
    with dsl.If(mood == "it's"):
        say(text="yes")


def artifact_only() -> None:
    inner(data=make(text="a").outputs["out"])


def oneof_artifact() -> dsl.Dataset:
    chosen = flag()
    with dsl.If(chosen.output == True):  # noqa: E712
        left = make(text="l")
    with dsl.Else():
        right = make(text="r")
    return dsl.OneOf(left.outputs["out"], right.outputs["out"])


def none_default(text: Optional[str] = None) -> None:  # noqa: UP045 - KFP cannot read `| None`
    say(text=text)


def python3(text: str = "image:python3.11") -> None:
    say(text=text)


def mutable_image() -> None:
    floating()


def pip() -> None:
    installing()


def container_step() -> None:
    container()


def built(graph: object) -> dict[str, object]:
    return MessageToDict(dsl.pipeline(name="small")(graph).pipeline_spec)


@pytest.mark.parametrize(
    ("graph", "rule"),
    [
        (named_condition, "named-condition"),
        (named_loop, "named-loop"),
        (quoted_condition, "quoted-condition"),
        (artifact_only, "artifact-only"),
        (oneof_artifact, "oneof-artifact"),
        (none_default, "none-default"),
        (python3, "python3"),
        (mutable_image, "mutable-image"),
        (pip, "pip"),
        (container_step, "container"),
    ],
)
def test_a_broken_rule_is_found(graph: object, rule: str) -> None:
    assert {finding.rule for finding in lint(built(graph))} == {rule}
    with pytest.raises(ConfigError, match=rule):
        refuse("small", built(graph))


def allowed(mood: str = "good", items: list = [1, 2]) -> None:  # noqa: B006
    chosen = flag()
    with dsl.If(chosen.output == True):  # noqa: E712
        say(text="one value decides")
    judged = two()
    with dsl.If(judged.outputs["ok"] == True):  # noqa: E712
        say(text="with an else")
    with dsl.Else():
        say(text="a named output works")
    with dsl.If(mood == "good"):
        say(text="a parameter")
    with dsl.ParallelFor(items) as item:
        say(text=item)


def test_what_works_is_let_through() -> None:
    assert lint(built(allowed)) == []
