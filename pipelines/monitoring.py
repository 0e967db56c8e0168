"""Judge what was served; draw the evidence of what was found."""

from components.monitor import monitor
from components.report import report
from kfp import dsl


@dsl.pipeline(name="monitoring", description="Judge the windows of the prediction log.")
def monitoring(config: str) -> None:
    """Judge every window that is due by now; one report for each new incident."""
    judged = monitor(config=config)
    with dsl.ParallelFor(judged.output) as incident:
        report(config=config, incident=incident)
