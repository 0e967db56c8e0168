"""Events to score, joined with the features they have at prediction time."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def scoring_set(
    config: str, start: str, end: str, features: Input[Dataset], rows: Output[Dataset]
) -> int:
    """Join every event predicted in [`start`, `end`) through Feast; return how many."""
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.steps.scoring_set import scoring_set
    from tidemill.wiring import Project

    project = Project.open(config)
    return scoring_set(
        Path(features.path),
        Path(rows.path),
        project.features,
        service=project.settings.features.service,
        label=project.settings.training.label,
        start=instant(start),
        end=instant(end),
    )
