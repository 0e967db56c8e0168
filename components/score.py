"""Scores of a period."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tidemill import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def score(
    config: str,
    run: str,
    model: str,
    data_version: str,
    bundle: Input[Model],
    rows: Input[Dataset],
    scores: Output[Dataset],
) -> str:
    """Score the rows; return the URL of the Parquet file, which names model and data version."""
    from pathlib import Path

    from tidemill.steps.score import score
    from tidemill.wiring import Project

    project = Project.open(config)
    about = {"model": model, "data_version": data_version, "run": run}
    score(Path(bundle.path), Path(rows.path), Path(scores.path), about=about)
    return project.objects.put(f"scores/{model}/{run}.parquet", Path(scores.path))
