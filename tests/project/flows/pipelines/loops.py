"""A loop whose iterations hold two steps that wait for each other, and one behind both."""

from kfp import dsl

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)


@step
def meet(item: str, me: str, other: str) -> str:
    """Wait until the other step of this iteration runs, too."""
    import time
    from pathlib import Path

    Path(f"{item}-{me}").touch()
    limit = time.monotonic() + 30
    while not Path(f"{item}-{other}").exists():
        if time.monotonic() > limit:
            raise TimeoutError(f"nobody is on the {other} of {item}")
        time.sleep(0.02)
    return f"{item}-{me}"


@step
def join(left: str, right: str) -> str:
    """Need both."""
    return f"{left} {right}"


@step
def gather(pairs: list) -> str:
    """Need every iteration."""
    return ", ".join(pairs)


@dsl.pipeline(name="loops")
def loops(items: list) -> str:
    """Meet, join, gather."""
    with dsl.ParallelFor(items) as item:
        left = meet(item=item, me="left", other="right")
        right = meet(item=item, me="right", other="left")
        pair = join(left=left.output, right=right.output)
    return gather(pairs=dsl.Collected(pair.output)).output
