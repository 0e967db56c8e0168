"""Where a pipeline runs: profiles for one machine and for Kubeflow Pipelines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tidemill.settings.base import Group, Secret

__all__ = ["ExecutionSettings", "KfpSettings", "StepResources"]


class StepResources(Group):
    """Resources of one step's pod; ignored on one machine."""

    cpu: str = "1"
    """CPU limit, Kubernetes quantity."""
    memory: str = "2Gi"
    """Memory limit, Kubernetes quantity."""
    gpu: int = Field(default=0, ge=0)
    """Number of GPUs."""
    gpu_type: str = "nvidia.com/gpu"
    """Resource name of the GPU."""
    retries: int = Field(default=0, ge=0)
    """Retries of the pod after a failure."""
    timeout_seconds: int = Field(default=3600, ge=1)
    """Active deadline of the pod."""


class KfpSettings(Group):
    """A Kubeflow Pipelines backend."""

    host: str = ""
    """URL of the Pipelines API."""
    namespace: str = "kubeflow"
    """Namespace of the runs."""
    token: Secret = ""
    """Bearer token by reference; empty means none."""
    service_account: str = "pipeline-runner"
    """Service account of the run's pods."""
    experiment: str = "tidemill"
    """KFP experiment."""


class ExecutionSettings(Group):
    """How pipelines are executed."""

    on: Literal["local", "kfp"] = "local"
    """Default of `tidemill run --on`."""
    timeout_seconds: float = Field(default=3600, gt=0)
    """A local run is stopped, whole tree, after this long."""
    resources: dict[str, StepResources] = Field(default_factory=dict)
    """Resources by step name; `default` applies to the rest."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every step (never secrets)."""
    kfp: KfpSettings = KfpSettings()
    """The backend of `--on kfp`."""
