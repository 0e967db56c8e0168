"""A registered model."""

from kfp import dsl
from kfp.dsl import Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def fetch_model(config: str, reference: str, bundle: Output[Model]) -> str:
    """Fetch the bundle that `reference` means, verify its signature; return `name/version`."""
    import shutil

    from tidemill.wiring import Project

    found = Project.open(config).revision(reference)
    shutil.copytree(found.bundle, bundle.path, dirs_exist_ok=True)
    return f"{found.model}/{found.version}"
