"""A server, put together from models, their ports and the settings."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import structlog

from tidemill.bundle import Manifest
from tidemill.errors import RetryableError
from tidemill.ports.clock import Clock
from tidemill.ports.features import OnlineReader
from tidemill.ports.objects import ObjectStore
from tidemill.server.answers import Answers
from tidemill.server.app import App
from tidemill.server.batching import Batcher
from tidemill.server.cache import Cache
from tidemill.server.crew import Crew
from tidemill.server.encoding import Encoder
from tidemill.server.guard import Doorkeeper, Guard
from tidemill.server.inference import Inference
from tidemill.server.lookup import Lookup
from tidemill.server.metrics import Counters, Metrics
from tidemill.server.model import Model
from tidemill.server.observer import Observer
from tidemill.server.orders import Orders
from tidemill.server.predictions import PredictionLog
from tidemill.server.records import Records
from tidemill.server.redaction import Redaction
from tidemill.server.repository import Repository, Served, Shadow
from tidemill.server.sampling import Sampler
from tidemill.server.unstored import Unstored
from tidemill.server.validation import Validator
from tidemill.settings.secrets import reveal
from tidemill.settings.serving import ServingSettings

__all__ = ["build_app", "build_served", "verify_features"]

log = structlog.get_logger(__name__)


def build_app(
    repository: Repository,
    settings: ServingSettings,
    keys: Doorkeeper | None = None,
    crew: Crew | None = None,
) -> App:
    """Return the application that serves a repository. Without `keys` everyone may ask it.

    With a `crew` it is one of the workers of a server.
    """
    observer = Observer.of(settings)
    metrics = Metrics(repository, observer, crew)
    guard = Guard(settings.limits, keys, open_metrics=settings.auth.open_metrics)
    return App(repository, metrics, guard, observer, Orders(repository, metrics, crew))


def build_served(
    model: Model,
    settings: ServingSettings,
    *,
    reader: OnlineReader,
    objects: ObjectStore,
    clock: Clock,
    unstored: Unstored | None = None,
) -> Served:
    """Return a model with what belongs to it; its prediction log is not started yet.

    With `unstored` the rows that this process would lose by a crash are counted by the next.
    """
    manifest = model.manifest
    labels = (model.name, model.version, model.revision)
    predictions = PredictionLog(
        objects,
        Encoder(manifest, labels, Redaction(manifest, reveal(settings.log.hash_key))),
        Sampler(settings.log, settings.slow_ms / 1000),
        prefix=f"predictions/{model.name}",
        settings=settings.log,
        open_tally=partial(unstored.open, model.name) if unstored else None,
    )
    counters = Counters(
        labels,
        slow_seconds=settings.slow_ms / 1000,
        views=tuple(view.name for view in manifest.features.views),
        logged=predictions.counts,
        held=predictions.held,
        trained=_trained(manifest),
    )
    validator = Validator(
        manifest,
        max_rows=settings.max_rows,
        max_text_length=settings.limits.max_text_length,
        nan_policy=settings.nan_policy,
    )
    answers = Answers(model.revision, settings.slow_ms / 1000)
    inference = Inference(
        model,
        validator,
        Lookup(manifest, reader, settings, counters),
        predictions,
        counters,
        clock,
        answers,
        settings.fallback,
        Batcher(model, rows, counters) if (rows := settings.max_batch_rows) else None,
        Cache(entries, counters) if (entries := settings.cache_entries) else None,
    )
    shadow = _shadow(model, validator, settings, reader, clock)
    counters.shadows = shadow.counters.outcomes
    records = Records(manifest, model.name, model.version)
    return Served(inference, counters, predictions, records, answers, shadow)


def _shadow(
    model: Model,
    validator: Validator,
    settings: ServingSettings,
    reader: OnlineReader,
    clock: Clock,
) -> Shadow:
    """Return what answers shadows: the same model, and nothing that a client's request leaves."""
    counters = Counters(
        (model.name, model.version, model.revision),
        slow_seconds=settings.slow_ms / 1000,
        views=tuple(view.name for view in model.manifest.features.views),
        logged=lambda: (0, 0),
        held=lambda: 0,
    )
    answers = Answers(model.revision, settings.slow_ms / 1000)
    batcher = Batcher(model, rows, counters) if (rows := settings.max_batch_rows) else None
    lookup = Lookup(model.manifest, reader, settings, counters)
    inference = Inference(model, validator, lookup, None, counters, clock, answers, batcher=batcher)
    return Shadow(inference, counters, answers)


def _trained(manifest: Manifest) -> float | None:
    """Return the moment that a model was trained for, epoch seconds; None if it is not told."""
    try:
        return datetime.fromisoformat(manifest.lineage["trained_as_of"]).timestamp()
    except (KeyError, ValueError):
        return None


def verify_features(model: Model, reader: OnlineReader) -> None:
    """Refuse a model whose features are not defined as those in the online store.

    Raises Mismatch that names both digests. A store that does not answer is no reason to stay
    down: features fall back to their defaults until it does, and is verified then.
    """
    try:
        reader.verify(model.manifest.features)
    except RetryableError as error:
        log.warning("the online store cannot be verified yet", reason=error.message)
