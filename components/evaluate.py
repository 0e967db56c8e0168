"""Figures of the model, the baselines and the model in use, on the same rows."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def evaluate(
    config: str,
    run: str,
    champion: str,
    training_set: Input[Dataset],
    trained: Input[Model],
    exported: Input[Model],
    baselines: Input[Dataset],
    evaluated: Output[Artifact],
) -> None:
    """Measure on held-out rows, against `champion` ("": the model in use, if there is one)."""
    from pathlib import Path

    from tidemill.steps.evaluate import evaluate
    from tidemill.wiring import Project

    project = Project.open(config)
    evaluate(
        Path(training_set.path),
        Path(trained.path),
        Path(exported.path),
        Path(baselines.path),
        Path(evaluated.path),
        slices=project.settings.gates.slices,
        champion=project.champion(champion),
        tracker=project.tracker(run),
    )
