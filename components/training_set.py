"""Labelled rows joined with the features they had at prediction time."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def training_set(
    config: str, as_of: str, start: str, features: Input[Dataset], training_set: Output[Dataset]
) -> int:
    """Join the rows predicted from `start` ("": the first) to `as_of`; return how many."""
    from dataclasses import asdict
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.steps.training_set import training_set as build
    from tidemill.wiring import Project

    project = Project.open(config)
    built = build(
        Path(features.path),
        Path(training_set.path),
        project.features,
        service=project.settings.features.service,
        label=project.settings.training.label,
        as_of=instant(as_of),
        start=instant(start) if start else None,
    )
    training_set.metadata.update(asdict(built))
    return built.rows
