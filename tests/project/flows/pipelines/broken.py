"""What KFP compiles and then reports as a success without having run the branch."""

from typing import NamedTuple

from kfp import dsl

step = dsl.component(base_image="tidemill/train", install_kfp_package=False)


@step
def judge() -> NamedTuple("Verdict", [("passed", bool), ("score", float)]):
    """Two values."""
    return True, 0.9


@step
def act() -> None:
    """What should run."""


@dsl.pipeline(name="broken")
def broken() -> None:
    """Act if the judge says so."""
    judged = judge()
    with dsl.If(judged.outputs["passed"] == True):  # noqa: E712 - KFP reads the comparison
        act()
