"""From raw months to a challenger whose rollout has begun."""

from components.baselines import baselines
from components.conclude import conclude
from components.deploy import deploy
from components.evaluate import evaluate
from components.export import export
from components.featurize import featurize
from components.gate import gate
from components.ingest import ingest
from components.package import package
from components.publish import publish
from components.register import register
from components.train import train
from components.training_set import training_set
from components.validate import validate
from kfp import dsl


@dsl.pipeline(name="training", description="From raw months to a challenger in rollout.")
def training(
    config: str,
    as_of: str,
    correlation_id: str,
    git_commit: str = "",
    trigger: str = "manual",
    window_start: str = "",
    champion: str = "",
    force_reason: str = "",
    rollout: bool = True,
    follow_seconds: float = 0.0,
) -> None:
    """Train on what was known at `as_of`; no step sees anything later.

    `window_start` ("" is the first row) and `as_of` bound the training set. A gate that does not
    pass fails its step, and with it the run, unless `force_reason` says why not. `rollout` starts
    the new version's rollout; the run follows it for `follow_seconds` and fails if it is given up.
    """
    run = correlation_id
    with dsl.ExitHandler(conclude(config=config, run=run)):
        ingested = ingest(config=config, as_of=as_of, run=run)
        valid = validate(config=config, as_of=as_of, run=run).after(ingested)
        dataset = valid.outputs["dataset"]
        data_version = publish(config=config, dataset=dataset).output
        tables = featurize(config=config, as_of=as_of, dataset=dataset)
        rows = training_set(
            config=config, as_of=as_of, start=window_start, features=tables.outputs["features"]
        ).outputs["training_set"]
        trained = train(
            config=config, run=run, as_of=as_of, trigger=trigger, training_set=rows
        ).outputs["trained"]
        bars = baselines(config=config, run=run, as_of=as_of, training_set=rows)
        exported = export(
            config=config,
            run=run,
            as_of=as_of,
            data_version=data_version,
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
        ).outputs["evaluated"]
        judged = gate(
            config=config,
            run=run,
            force_reason=force_reason,
            evaluated=evaluated,
            exported=exported,
        )
        packed = package(
            config=config,
            run=run,
            data_version=data_version,
            git_commit=git_commit,
            training_set=rows,
            trained=trained,
            exported=exported,
            evaluated=evaluated,
            evidence=judged.outputs["evidence"],
        )
        registered = register(
            config=config,
            run=run,
            trigger=trigger,
            bundle=packed.outputs["bundle"],
        )
        with dsl.If(rollout == True):  # noqa: E712 - KFP reads the comparison
            deploy(
                config=config,
                version=registered.outputs["Output"],
                follow_seconds=follow_seconds,
            )
