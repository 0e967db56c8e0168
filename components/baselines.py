"""What the torch model must beat."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def baselines(
    config: str,
    run: str,
    training_set: Input[Dataset],
    trained: Input[Model],
    scores: Output[Dataset],
) -> None:
    """Fit the baselines to the rows the model was trained on; score the held-out ones."""
    from pathlib import Path

    from tidemill.steps.baselines import fit_baselines
    from tidemill.wiring import Project

    project = Project.open(config)
    rows, model, out = (Path(one.path) for one in (training_set, trained, scores))
    fit_baselines(rows, model, out, tracker=project.tracker(run))
