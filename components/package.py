"""The bundle: everything that a release is."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def package(
    config: str,
    run: str,
    data_version: str,
    git_commit: str,
    training_set: Input[Dataset],
    trained: Input[Model],
    exported: Input[Model],
    evaluated: Input[Artifact],
    evidence: Input[Artifact],
    bundle: Output[Model],
) -> None:
    """Assemble the unsigned bundle of a candidate that its gates let through."""
    from pathlib import Path

    from tidemill.steps.package import package
    from tidemill.steps.training_set import pinned_service
    from tidemill.wiring import Project

    project = Project.open(config)
    run_id = project.tracker(run).run_id
    lineage = {"data_version": data_version, "git_commit": git_commit, "run_id": run_id}
    package(
        *(
            Path(part.path)
            for part in (training_set, trained, exported, evaluated, evidence, bundle)
        ),
        name=project.settings.registry.model,
        row_id=project.settings.serving.row_id,
        features=pinned_service(Path(training_set.path)),
        lineage={name: value for name, value in lineage.items() if value},
        monitoring=project.settings.monitoring,
        pii=project.contract.pii,
    )
