"""The evidence of an incident."""

from kfp import dsl

from tidemill import images


@dsl.component(base_image=images.MONITOR, install_kfp_package=False)
def report(config: str, incident: str) -> str:
    """Draw the window that raised the incident; return the report's URL, or why there is none."""
    from tidemill.wiring import Project

    return Project.open(config).reporter.of_incident(incident).report
