"""The execution settings, applied to the tasks of a pipeline while it is built.

Most of what they set (environment, retries, timeouts) cannot be a pipeline parameter in KFP.
"""

from __future__ import annotations

from typing import Any

from tidemill import images
from tidemill.adapters.kfp.sdk import pipeline_context
from tidemill.settings.execution import ExecutionSettings

__all__ = ["Target", "apply"]

Target = str
"""`local` or `kfp`: only a cluster reads the settings of pods."""


def apply(execution: ExecutionSettings, target: Target) -> None:
    """Configure every task of the pipeline being built, also those in loops and branches."""
    for task in pipeline_context.Pipeline.get_default_pipeline().tasks.values():
        if task.container_spec is not None:
            _configure(task, execution, target)


def _configure(task: Any, execution: ExecutionSettings, target: Target) -> None:
    wanted = execution.resources_of(task.component_spec.name)
    for dependencies, image in execution.images.items():
        if task.container_spec.image == images.reference(dependencies):
            task.set_container_image(image)
    for name, value in execution.environment.items():
        task.set_env_variable(name, value)
    # KFP's key holds neither the code in the image nor what a step reads beyond its arguments.
    task.set_caching_options(enable_caching=False)
    if wanted.retries:
        task.set_retry(wanted.retries)
    if target == "kfp":
        _configure_pod(task, execution, wanted)


def _configure_pod(task: Any, execution: ExecutionSettings, wanted: Any) -> None:
    # Imports the client of Kubernetes, 1.6 s: not for local runs.
    from kfp import kubernetes

    task.set_cpu_limit(wanted.cpu).set_memory_limit(wanted.memory)
    if wanted.gpu:
        task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpu)
    kubernetes.set_timeout(task, wanted.timeout_seconds)
    for variable, place in execution.kfp.secrets.items():
        secret, key = place.split("/")
        kubernetes.use_secret_as_env(task, secret, {key: variable})
    for folder, secret in wanted.secret_files.items():
        kubernetes.use_secret_as_volume(task, secret, folder)
