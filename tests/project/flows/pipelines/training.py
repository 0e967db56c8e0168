"""What the governor starts: the steps of `chain` with the parameters of a training."""

from kfp import dsl

from pipelines.chain import finish, make, work


@dsl.pipeline(name="training")
def training(as_of: str, correlation_id: str, window_start: str = "") -> str:
    """Make, work, finish."""
    made = make(size=3)
    worked = work(data=made.outputs["data"])
    return finish(seen=worked.outputs["Output"], as_of=as_of, wait=0.0).output
