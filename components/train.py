"""The torch model."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def train(
    config: str,
    run: str,
    as_of: str,
    trigger: str,
    training_set: Input[Dataset],
    trained: Output[Model],
) -> None:
    """Train on labels that were mature at `as_of`; a killed training continues where it was."""
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.steps.train import train
    from tidemill.steps.training_data import read_training_data
    from tidemill.wiring import Project

    project = Project.open(config)
    data = read_training_data(
        Path(training_set.path),
        project.settings.training,
        as_of=instant(as_of),
        maturity_hours=project.settings.monitoring.maturity_hours,
    )
    train(data, Path(trained.path), tracker=project.tracker(run, {"trigger": trigger}))
