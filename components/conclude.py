"""The end of a run's record."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def conclude(config: str, run: str, status: PipelineTaskFinalStatus) -> None:
    """Close the run in the tracker as finished or failed; runs whatever happened before."""
    from tidemill.wiring import Project

    tracker = Project.open(config).tracker(run)
    tracker.close("FINISHED" if status.state == "SUCCEEDED" else "FAILED")
