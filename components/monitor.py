"""The windows of the prediction log that are due."""

from kfp import dsl

from tidemill import images


@dsl.component(base_image=images.MONITOR, install_kfp_package=False)
def monitor(config: str) -> list:
    """Judge every window that is due, ask for retraining; return the ids of new incidents."""
    from tidemill.steps.watch import Round
    from tidemill.wiring import Project

    project = Project.open(config)
    found = []
    Round(project.monitor, project.governor, lambda incident: found.append(incident.id)).run()
    return found
