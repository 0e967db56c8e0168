"""The data contract, held against every month."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Output

from tidemill import images


@dsl.component(base_image=images.FEATURES, install_kfp_package=False)
def validate(
    config: str, as_of: str, run: str, dataset: Output[Dataset], report: Output[Artifact]
) -> None:
    """Assemble the valid months as known at `as_of`; fail if the newest of any is broken.

    The report is kept with the objects too: a backend drops what a failed step wrote.
    """
    from pathlib import Path

    from tidemill.domain.instants import instant
    from tidemill.domain.months import months
    from tidemill.steps.validate import validate
    from tidemill.wiring import Project

    project = Project.open(config)
    found = validate(
        project.partitions,
        project.objects,
        project.contract,
        months=months(project.settings.data.start, project.settings.data.end),
        as_of=instant(as_of),
        folder=Path(dataset.path),
    )
    found.write(Path(report.path))
    project.keep(Path(report.path), run)
    found.require_valid()
