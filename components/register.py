"""The registry's next version."""

from kfp import dsl
from kfp.dsl import Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def register(
    config: str,
    run: str,
    trigger: str,
    bundle: Input[Model],
    released: Output[Model],
) -> str:
    """Sign and publish the bundle as challenger, on record; return `name/version`."""
    import shutil
    from pathlib import Path

    from tidemill.steps.register import register
    from tidemill.wiring import Project

    project = Project.open(config)
    signed = shutil.copytree(bundle.path, released.path, dirs_exist_ok=True)
    version = register(
        Path(signed),
        signer=project.signer,
        registry=project.registry,
        aliases=project.registry,
        ledger=project.ledger,
        clock=project.clock,
        run_id=project.tracker(run).run_id,
        who="pipeline training",
        why=trigger,
        correlation=run,
    )
    return str(version)
