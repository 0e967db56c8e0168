"""The model as ONNX."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def export(
    config: str,
    run: str,
    as_of: str,
    data_version: str,
    git_commit: str,
    training_set: Input[Dataset],
    trained: Input[Model],
    exported: Output[Model],
) -> None:
    """Export the model with its preprocessing and its lineage; measure its parity with torch."""
    from pathlib import Path

    from tidemill.steps.export import export
    from tidemill.wiring import Project

    project = Project.open(config)
    lineage = {
        "data_version": data_version,
        "git_commit": git_commit,
        "trained_as_of": as_of,
        "seed": str(project.settings.training.seed),
    }
    for name in ("feature_digest", "window_start", "window_end"):
        lineage[name] = training_set.metadata[name]
    export(
        Path(training_set.path),
        Path(trained.path),
        Path(exported.path),
        project.settings.export,
        tracker=project.tracker(run),
        lineage=lineage,
    )
    exported.metadata.update(lineage)
