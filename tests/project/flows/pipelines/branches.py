"""A loop and a branch: what the portable subset allows."""

from kfp import dsl

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)


@step
def double(number: int) -> int:
    """Twice the number; -1 fails at its first execution."""
    from pathlib import Path

    if number == -1 and not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("not yet")
    return 2 * number


@step
def total(numbers: list, mood: str) -> str:
    """The mood if the numbers add up to something."""
    return mood if sum(numbers) else "empty"


@step
def say(text: str) -> str:
    """Say it."""
    return text


@dsl.pipeline(name="branches")
def branches(numbers: list, mood: str = "good") -> str:
    """Double all numbers, then choose."""
    with dsl.ParallelFor(numbers) as number:
        doubled = double(number=number)
    summed = total(numbers=dsl.Collected(doubled.output), mood=mood)
    with dsl.If(summed.output == "good"):
        left = say(text="yes")
    with dsl.Else():
        right = say(text="no")
    return dsl.OneOf(left.output, right.output)
