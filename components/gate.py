"""The verdict on a candidate."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def gate(
    config: str,
    run: str,
    force_reason: str,
    evaluated: Input[Artifact],
    exported: Input[Model],
    evidence: Output[Artifact],
) -> None:
    """Hold the candidate against every gate and fail if one did not pass.

    A stated reason lets it through all the same, on record. The evidence is kept with the objects
    too: a backend drops what a failed step wrote.
    """
    from pathlib import Path

    from tidemill.steps.gate import gate
    from tidemill.wiring import Project

    project = Project.open(config)
    judged, model, out = (Path(one.path) for one in (evaluated, exported, evidence))
    try:
        tracker = project.tracker(run)
        gate(judged, model, out, project.settings.gates, tracker=tracker, override=force_reason)
    finally:
        project.keep(out, run)
