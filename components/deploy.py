"""The wish to serve a version."""

from kfp import dsl

from tidemill import images


@dsl.component(base_image=images.CONTROL, install_kfp_package=False)
def deploy(config: str, version: str) -> None:
    """Want `version` (`name/number`): a first one is deployed, any other is a canary first.

    The rollout's controller does the rest, at its own pace.
    """
    from tidemill.wiring import Project

    project = Project.open(config)
    project.orders.start(project.revision(version), project.rollout_plan)
