"""What is known of a model's rollouts, for who only looks: one list, nothing else is read."""

from __future__ import annotations

from pydantic import ValidationError

from tidemill.adapters.kubernetes.client import ROLLOUTS, Manifest, Objects
from tidemill.adapters.kubernetes.fields import brief
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_revision
from tidemill.adapters.kubernetes.status import read_state
from tidemill.domain.rollout.flight import Rollout
from tidemill.errors import DataError

__all__ = ["survey"]


def survey(objects: Objects, namespace: str, model: str) -> list[Rollout]:
    """Return what is wanted and what is known of each ModelRollout of a model.

    Found by their model: a chart's ModelRollout need not have the project's name. Raises DataError
    for one that cannot be read, and what the API server answers.
    """
    rollouts = objects.select(ROLLOUTS, namespace, {})
    return [_rollout(found) for found in rollouts if found["spec"]["model"]["name"] == model]


def _rollout(found: Manifest) -> Rollout:
    name = found["metadata"]["name"]
    try:
        spec = ModelRolloutSpec.model_validate(found["spec"])
        desired = make_revision(spec)
    except ValidationError as error:
        raise DataError(
            f"ModelRollout {name} cannot be read: {brief(error)}",
            hint=f"kubectl edit modelrollout {name}",
        ) from error
    return Rollout(name, desired, read_state(found.get("status", {})), spec.paused)
