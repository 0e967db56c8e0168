"""A registered model."""

from kfp import dsl
from kfp.dsl import Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def fetch_model(config: str, reference: str, bundle: Output[Model]) -> str:
    """Fetch the bundle that `reference` means, verify its signature; return `name/version`."""
    from pathlib import Path

    from tidemill.bundle import verify
    from tidemill.wiring import Project

    project = Project.open(config)
    version = project.registry.resolve(reference)
    folder = project.registry.fetch(version, Path(bundle.path))
    verify(folder, project.paths.resolve(project.settings.registry.verify_key))
    return str(version)
