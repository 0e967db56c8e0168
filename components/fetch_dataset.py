"""A published version of the data."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def fetch_dataset(config: str, version: str, dataset: Output[Dataset]) -> None:
    """Fetch a dataset version from the DVC remote, every byte verified."""
    from pathlib import Path

    from tidemill.wiring import Project

    Project.open(config).versions.fetch(version, Path(dataset.path))
