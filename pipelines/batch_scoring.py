"""Scores of a past or coming period, by a registered model on a published data version."""

from components.featurize import featurize
from components.fetch_dataset import fetch_dataset
from components.fetch_model import fetch_model
from components.score import score
from components.scoring_set import scoring_set
from kfp import dsl


@dsl.pipeline(
    name="batch-scoring", description="Score a period with a registered model, as Parquet."
)
def batch_scoring(
    config: str,
    as_of: str,
    correlation_id: str,
    model: str,
    data_version: str,
    start: str,
    end: str,
) -> str:
    """Score every event predicted in [`start`, `end`) with what was knowable at `as_of`.

    `model` is `name@alias`, `name/version` or `name` (the newest).
    """
    fetched = fetch_model(config=config, reference=model)
    dataset = fetch_dataset(config=config, version=data_version)
    tables = featurize(config=config, as_of=as_of, dataset=dataset.outputs["dataset"])
    rows = scoring_set(config=config, start=start, end=end, features=tables.outputs["features"])
    return score(
        config=config,
        run=correlation_id,
        model=fetched.outputs["Output"],
        data_version=data_version,
        bundle=fetched.outputs["bundle"],
        rows=rows.outputs["rows"],
    ).outputs["Output"]
