"""The wish to serve a version."""

from kfp import dsl

from tidemill import images


@dsl.component(base_image=images.CONTROL, install_kfp_package=False)
def deploy(config: str, version: str, follow_seconds: float) -> None:
    """Want `version` (`name/number`) where `rollout.target` says, and follow it so long.

    A first version is deployed, any other is a canary first. The rollout's controller does the
    rest, at its own pace: 0 follows nothing. A version that is given up fails the step.
    """
    from tidemill.wiring import Project

    Project.open(config).deploy(version, follow_seconds)
