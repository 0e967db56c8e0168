"""Feature tables and the spine."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def featurize(config: str, as_of: str, dataset: Input[Dataset], features: Output[Dataset]) -> None:
    """Compute every feature table, as knowable at `as_of`, with the project's transforms."""
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.steps.featurize import featurize
    from tidemill.wiring import Project

    project = Project.open(config)
    settings = project.settings.features
    raw, out = Path(dataset.path), Path(features.path)
    rows = featurize(raw, out, project.transforms, settings, instant(as_of))
    features.metadata.update(rows)
