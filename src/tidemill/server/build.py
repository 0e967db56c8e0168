"""A server, put together from a model, its ports and the settings."""

from __future__ import annotations

import structlog

from tidemill.errors import RetryableError
from tidemill.ports.clock import Clock
from tidemill.ports.features import OnlineReader
from tidemill.ports.objects import ObjectStore
from tidemill.server.app import App
from tidemill.server.encoding import Encoder
from tidemill.server.guard import Doorkeeper, Guard
from tidemill.server.inference import Inference
from tidemill.server.lookup import Lookup
from tidemill.server.metrics import Metrics
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.redaction import Redaction
from tidemill.server.sampling import Sampler
from tidemill.server.validation import Validator
from tidemill.settings.secrets import reveal
from tidemill.settings.serving import ServingSettings

__all__ = ["build", "verify_features"]

log = structlog.get_logger(__name__)


def build(
    model: Model,
    settings: ServingSettings,
    *,
    reader: OnlineReader,
    objects: ObjectStore,
    clock: Clock,
    keys: Doorkeeper | None = None,
) -> tuple[App, PredictionLog]:
    """Return the application that serves `model`, and the log that it writes.

    Without `keys` everyone may ask it.
    """
    manifest = model.manifest
    labels = (model.name, model.version, model.revision)
    predictions = PredictionLog(
        objects,
        Encoder(manifest, labels, Redaction(manifest, reveal(settings.log.hash_key))),
        Sampler(settings.log, settings.slow_ms / 1000),
        prefix=f"predictions/{model.name}",
        settings=settings.log,
    )
    metrics = Metrics(
        labels,
        slow_seconds=settings.slow_ms / 1000,
        views=tuple(view.name for view in manifest.features.views),
        logged=predictions.counts,
    )
    validator = Validator(manifest, max_rows=settings.max_rows, nan_policy=settings.nan_policy)
    lookup = Lookup(manifest, reader, settings.lookup_deadline_ms)
    inference = Inference(model, validator, lookup, predictions, metrics, clock)
    guard = Guard(settings.limits, keys, open_metrics=settings.auth.open_metrics)
    app = App(inference, metrics, guard, max_body_bytes=settings.max_body_bytes)
    return app, predictions


def verify_features(model: Model, reader: OnlineReader) -> None:
    """Refuse a model whose features are not defined as those in the online store.

    Raises IntegrityError that names both digests. A store that does not answer is no reason to stay
    down: features fall back to their defaults until it does, and is verified then.
    """
    try:
        reader.verify(model.manifest.features)
    except RetryableError as error:
        log.warning("the online store cannot be verified yet", reason=error.message)
