"""The dataset's version."""

from kfp import dsl
from kfp.dsl import Dataset, Input

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def publish(config: str, dataset: Input[Dataset]) -> str:
    """Store the dataset in the DVC remote; return its version, the same for the same bytes."""
    from pathlib import Path

    from tidemill.steps.publish import publish
    from tidemill.wiring import Project

    project = Project.open(config)
    return publish(project.versions, Path(dataset.path)).id
