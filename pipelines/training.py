"""From raw months to a registered challenger."""

from components.featurize import featurize
from components.ingest import ingest
from components.publish import publish
from components.training_set import training_set
from components.validate import validate
from kfp import dsl


@dsl.pipeline(name="training", description="From raw months to a registered challenger.")
def training(
    config: str,
    as_of: str,
    correlation_id: str,
    window_start: str = "",
) -> str:
    """Train on what was known at `as_of`; no step sees anything later."""
    ingested = ingest(config=config, as_of=as_of)
    valid = validate(config=config, as_of=as_of, run=correlation_id).after(ingested)
    version = publish(config=config, dataset=valid.outputs["dataset"])
    tables = featurize(config=config, as_of=as_of, dataset=valid.outputs["dataset"])
    examples = training_set(
        config=config, as_of=as_of, start=window_start, features=tables.outputs["features"]
    )
    return version.output
