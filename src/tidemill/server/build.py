"""A server, put together from a model, its ports and the settings."""

from __future__ import annotations

from tidemill.errors import IntegrityError
from tidemill.ports.clock import Clock
from tidemill.ports.features import OnlineReader
from tidemill.ports.objects import ObjectStore
from tidemill.server.app import App
from tidemill.server.encoding import Encoder
from tidemill.server.inference import Inference
from tidemill.server.lookup import Lookup
from tidemill.server.metrics import Metrics
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.validation import Validator
from tidemill.settings.serving import ServingSettings

__all__ = ["build", "check_features"]


def build(
    model: Model,
    settings: ServingSettings,
    *,
    reader: OnlineReader,
    objects: ObjectStore,
    clock: Clock,
) -> tuple[App, PredictionLog]:
    """Return the application that serves `model`, and the log that it writes."""
    manifest = model.manifest
    labels = (model.name, model.version, model.revision)
    log = PredictionLog(
        objects,
        Encoder(manifest, labels),
        prefix=f"predictions/{model.name}",
        settings=settings.log,
    )
    metrics = Metrics(
        labels,
        slow_seconds=settings.slow_ms / 1000,
        views=tuple(view.name for view in manifest.features.views),
        logged=log.counts,
    )
    validator = Validator(manifest, max_rows=settings.max_rows, nan_policy=settings.nan_policy)
    lookup = Lookup(manifest, reader, settings.lookup_deadline_ms)
    inference = Inference(model, validator, lookup, log, metrics, clock)
    return App(inference, metrics, max_body_bytes=settings.max_body_bytes), log


def check_features(model: Model, served: str) -> None:
    """Refuse a model whose features are not defined as those in the online store.

    `served` is the digest of the service that fills the online store.
    """
    service = model.manifest.features
    if service.digest != served:
        raise IntegrityError(
            f"the model was trained with feature service '{service.name}' at {service.digest}, the "
            f"online store is filled by {served}",
            hint="serve a model trained with the present definition, or restore the old one",
        )
