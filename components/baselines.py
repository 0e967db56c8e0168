"""What the torch model must beat."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def baselines(
    config: str,
    run: str,
    as_of: str,
    training_set: Input[Dataset],
    scores: Output[Dataset],
) -> None:
    """Fit the baselines to the rows that the model is trained on; score the held-out ones."""
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.steps.baselines import fit_baselines
    from tidemill.steps.training_data import read_training_data
    from tidemill.wiring import Project

    project = Project.open(config)
    data = read_training_data(
        Path(training_set.path),
        project.settings.training,
        as_of=instant(as_of),
        maturity_hours=project.settings.monitoring.maturity_hours,
    )
    fit_baselines(data, Path(scores.path), tracker=project.tracker(run))
