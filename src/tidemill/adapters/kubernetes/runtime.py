"""What is to serve, and what serves it: the parts of a revision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from tidemill.adapters.kubernetes.fields import LongName, Number, Reference, Schema, rules

__all__ = ["Model", "Runtime"]

Quantity = Annotated[str, StringConstraints(max_length=32)]
Label = Annotated[str, StringConstraints(max_length=63)]
Image = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$", max_length=400)]


class ScoreTails(Schema):
    """Quartiles of the model's scores in its reference profile."""

    low: Number
    """About a quarter of its scores is at most this."""
    high: Number
    """About a quarter of its scores is above this."""


class Model(Schema):
    """What is to serve all traffic: one version of one model, by digest."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.name == oldSelf.name",
                "the model of a rollout is fixed: make another ModelRollout for another model",
            ),
            (
                "double(self.scoreTails.low) <= double(self.scoreTails.high)",
                "scoreTails.low must not be above scoreTails.high",
            ),
            ("double(self.threshold) <= 1.0", "threshold is a share: at most 1"),
            (
                "self.digest != oldSelf.digest || "
                "(self.threshold == oldSelf.threshold && self.scoreTails == oldSelf.scoreTails)",
                "threshold and scoreTails are the bundle's: they change with its digest alone",
            ),
        )
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$", max_length=63)]
    """Name in the registry, and of the model in the server's URLs."""
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]+$", max_length=12)]
    """Version in the registry; answers carry it."""
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
    """Digest of the bundle: what is promoted is what was named."""
    threshold: Number
    """A score at or above it predicts the event; the event's share in training."""
    score_tails: ScoreTails
    """Bounds of the lowest and the highest quarter of its scores."""


class BundleClaim(Schema):
    """Bundles on a volume that is mounted read-only."""

    claim_name: LongName
    """PersistentVolumeClaim that holds them."""
    path: Annotated[str, StringConstraints(pattern=r"^[^/.][^:]*$", max_length=200)] = "bundles"
    """Folder in it; the bundle is `<path>/<first ten hex digits of the digest>`."""


class Resources(Schema):
    """Compute of one server, as in a container."""

    requests: dict[str, Quantity] = Field(default={}, max_length=8)
    """What the scheduler keeps free for it."""
    limits: dict[str, Quantity] = Field(default={}, max_length=8)
    """What it may not exceed."""


class Toleration(Schema):
    """A taint that the servers tolerate, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.operator == 'Exists' || self.key != ''", "Equal needs a key"),
            ("self.operator == 'Equal' || self.value == ''", "Exists takes no value"),
            (
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds is for the effect NoExecute",
            ),
        )
    )

    key: Annotated[str, StringConstraints(max_length=317)] = ""
    """Key of the taint; empty with Exists: every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the value counts."""
    value: Label = ""
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; none: all of them."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_622_400)] | None = None
    """For how long a NoExecute taint is tolerated; none: for ever."""


class Runtime(Schema):
    """What serves the model; all but `replicas` is part of the revision and rolled out with it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.fetchImage) != has(self.bundles)",
                "say where the bundle comes from: either fetchImage or bundles",
            )
        )
    )

    image: Image
    """Image with `tidemill[serve]`, by digest: a tag may mean another image tomorrow."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Servers per revision; stable and canary both run all of them during an attempt. Leave it out
    of what you apply where an autoscaler sets it (`kubectl scale`, HorizontalPodAutoscaler)."""
    fetch_image: Image | None = None
    """Image with `tidemill[registry]`: an init container fetches the bundle from the registry."""
    bundles: BundleClaim | None = None
    """Bundles on a volume, instead of `fetchImage`."""
    resources: Resources = Resources()
    """Compute of one server."""
    config_map: Reference | None = None
    """ConfigMap whose keys become environment variables: the project's settings."""
    secret: Reference | None = None
    """Secret whose keys become environment variables: credentials."""
    service_account_name: LongName | None = None
    """Service account of the servers; no token is mounted."""
    image_pull_secrets: list[Reference] = Field(default=[], max_length=8)
    """Secrets with which the images are pulled."""
    priority_class_name: LongName | None = None
    """PriorityClass of the servers: above what may wait, so that it never takes their place."""
    node_selector: dict[str, Label] = Field(default={}, max_length=8)
    """Nodes that may run the servers, by label."""
    tolerations: list[Toleration] = Field(default=[], max_length=16)
    """Taints that the servers tolerate."""
    min_ready_seconds: Annotated[int, Field(ge=0, le=600)] = 0
    """A server counts as available after it was ready for this long."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    """Time of a server to answer what it has begun."""
