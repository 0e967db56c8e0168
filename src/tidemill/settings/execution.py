"""Where a pipeline runs: on one machine, or on Kubeflow Pipelines."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tidemill.settings.base import Group, PublicName, Secret, Url

__all__ = ["ExecutionSettings", "KfpSettings", "StepResources"]


def _pinned(image: str) -> str:
    tag = re.search(r"(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]{1,128})$", image)
    if not tag:
        raise ValueError(
            f"image '{image}' has no version or digest: KFP's cache key is the image's name, "
            "a tag that moves gives stale results"
        )
    return image


def _absolute(folder: str) -> str:
    if not folder.startswith("/"):
        raise ValueError(f"'{folder}' is no absolute path of a folder in the pod")
    return folder


class StepResources(Group):
    """Resources of one step's pod; on one machine only `retries` acts."""

    cpu: str = "1"
    """CPU limit, Kubernetes quantity."""
    memory: str = "2Gi"
    """Memory limit, Kubernetes quantity."""
    gpu: int = Field(default=0, ge=0)
    """Number of GPUs."""
    gpu_type: str = "nvidia.com/gpu"
    """Resource name of the GPU."""
    retries: int = Field(default=0, ge=0)
    """Retries of the step after a failure. On a cluster they need an Argo controller without
    `templateDefaults.retryStrategy` (docs: pipelines)."""
    timeout_seconds: int = Field(default=3600, ge=1)
    """Active deadline of the pod."""
    secret_files: dict[
        Annotated[str, AfterValidator(_absolute)],
        Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")],
    ] = Field(default_factory=dict)
    """Folder in the pod → Kubernetes secret whose keys are files there: the key that `register`
    signs with. No other step's pod sees them."""


class KfpSettings(Group):
    """A Kubeflow Pipelines backend."""

    host: Url = ""
    """URL of the Pipelines API."""
    namespace: str = ""
    """Namespace of the runs on a multi-user installation; a single-user one takes none."""
    token: Secret = ""
    """Bearer token by reference; empty means none."""
    service_account: str = "pipeline-runner"
    """Service account of the run's pods."""
    experiment: str = "tidemill"
    """KFP experiment."""
    pipeline_root: Url = ""
    """Where the backend keeps artifacts, `s3://bucket/prefix`; empty means its own default."""
    secrets: dict[str, Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[\w.-]+$")]] = Field(
        default_factory=dict
    )
    """Environment variable of every step → `secret/key` of the Kubernetes secret that holds it."""
    poll_seconds: float = Field(default=5.0, gt=0)
    """Time between two looks at a run that is waited for."""


class ExecutionSettings(Group):
    """How pipelines are executed."""

    target: Literal["local", "kfp"] = "local"
    """Default of `tidemill run --on`. (Not named `on`: YAML reads that key as true.)"""
    timeout_seconds: float = Field(default=3600, gt=0)
    """A run is stopped, with everything it started, after this long."""
    parallel_steps: int = Field(default=2, ge=1)
    """Steps of a local run that may run at the same time, where none waits for another. Those of a
    loop come on top, two at a time."""
    warm: bool = True
    """Whether a local run on Linux imports what its steps import once, in a process from which they
    are forked. False if a step imports something that does not survive a fork."""
    resources: dict[str, StepResources] = Field(default_factory=dict)
    """Resources by step name; `default` applies to the rest."""
    environment: dict[PublicName, Url] = Field(default_factory=dict)
    """Environment variables of every step. No secrets: those of a cluster go to `kfp.secrets`."""
    images: dict[
        Literal["features", "train", "serve", "monitor", "control", "registry"],
        Annotated[str, AfterValidator(_pinned)],
    ] = Field(default_factory=dict)
    """Image of a dependency set, by version or digest; default `tidemill/<set>:<version>`."""
    kfp: KfpSettings = KfpSettings()
    """The backend of `--on kfp`."""

    def resources_of(self, step: str) -> StepResources:
        """Return the resources of a step."""
        return self.resources.get(step) or self.resources.get("default") or StepResources()
