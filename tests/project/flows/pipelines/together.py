"""Two steps that wait for each other, and a last one whatever happens."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)


@step
def left(order: str) -> str:
    """Wait for the step on the right, then fail if told so."""
    import time
    from pathlib import Path

    Path("left").touch()
    limit = time.monotonic() + 30
    while not Path("right").exists():
        if time.monotonic() > limit:
            raise TimeoutError("nobody is on the right")
        time.sleep(0.02)
    if order == "fail":
        raise ValueError("left is wrong")
    return "left"


@step
def right() -> str:
    """Wait for the step on the left."""
    import time
    from pathlib import Path

    Path("right").touch()
    limit = time.monotonic() + 30
    while not Path("left").exists():
        if time.monotonic() > limit:
            raise TimeoutError("nobody is on the left")
        time.sleep(0.02)
    return "right"


@step
def after_left(name: str) -> None:
    """Need the left one alone."""


@step
def after_right(name: str) -> None:
    """Need the right one alone."""


@step
def last(status: PipelineTaskFinalStatus) -> None:
    """Tell how it went."""
    from pathlib import Path

    Path("ended").write_text(status.state)


@dsl.pipeline(name="together")
def together(order: str = "") -> None:
    """Left and right, then one after each."""
    with dsl.ExitHandler(last()):
        after_left(name=left(order=order).output)
        after_right(name=right().output)
