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
    from datetime import datetime
    from pathlib import Path

    from tidemill.steps.train import train
    from tidemill.wiring import Project

    project = Project.open(config)
    train(
        Path(training_set.path),
        Path(trained.path),
        project.settings.training,
        tracker=project.tracker(run, {"trigger": trigger}),
        as_of=datetime.fromisoformat(as_of),
        maturity_hours=project.settings.monitoring.maturity_hours,
    )
