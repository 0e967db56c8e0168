"""From raw months to a registered challenger."""

from components.baselines import baselines
from components.evaluate import evaluate
from components.export import export
from components.featurize import featurize
from components.gate import gate
from components.ingest import ingest
from components.publish import publish
from components.train import train
from components.training_set import training_set
from components.validate import validate
from kfp import dsl


@dsl.pipeline(name="training", description="From raw months to a registered challenger.")
def training(
    config: str,
    as_of: str,
    correlation_id: str,
    git_commit: str = "",
    trigger: str = "manual",
    window_start: str = "",
    champion: str = "",
    force_reason: str = "",
) -> str:
    """Train on what was known at `as_of`; no step sees anything later.

    `window_start` ("" is the first row) and `as_of` bound the training set. A gate that does not
    pass fails its step, and with it the run, unless `force_reason` says why not.
    """
    run = correlation_id
    ingested = ingest(config=config, as_of=as_of)
    valid = validate(config=config, as_of=as_of, run=run).after(ingested)
    dataset = valid.outputs["dataset"]
    version = publish(config=config, dataset=dataset)
    tables = featurize(config=config, as_of=as_of, dataset=dataset)
    rows = training_set(
        config=config, as_of=as_of, start=window_start, features=tables.outputs["features"]
    ).outputs["training_set"]
    trained = train(
        config=config, run=run, as_of=as_of, trigger=trigger, training_set=rows
    ).outputs["trained"]
    bars = baselines(config=config, run=run, training_set=rows, trained=trained)
    exported = export(
        config=config,
        run=run,
        as_of=as_of,
        data_version=version.output,
        git_commit=git_commit,
        training_set=rows,
        trained=trained,
    ).outputs["exported"]
    evaluated = evaluate(
        config=config,
        run=run,
        champion=champion,
        training_set=rows,
        trained=trained,
        exported=exported,
        baselines=bars.outputs["scores"],
    )
    gate(
        config=config,
        run=run,
        force_reason=force_reason,
        evaluated=evaluated.outputs["evaluated"],
        exported=exported,
    )
    return version.output
