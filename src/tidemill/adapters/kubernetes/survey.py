"""What is known of a model's rollouts, for who only looks: one list, nothing else is read."""

from __future__ import annotations

from pydantic import ValidationError

from tidemill.adapters.kubernetes.client import ROLLOUTS, Manifest, Objects
from tidemill.adapters.kubernetes.fields import brief
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_revision
from tidemill.adapters.kubernetes.status import read_state
from tidemill.domain.rollout.flight import Rollout
from tidemill.domain.rollout.model import Revision
from tidemill.errors import DataError

__all__ = ["survey"]


def survey(objects: Objects, namespace: str, model: str) -> list[Rollout]:
    """Return what is wanted and what is known of each ModelRollout of a model.

    Found by their model: a chart's ModelRollout need not have the project's name. Raises DataError
    for one that cannot be read, and what the API server answers.
    """
    return [
        Rollout(found["metadata"]["name"], _wanted(found), read_state(found.get("status", {})))
        for found in objects.select(ROLLOUTS, namespace, {})
        if found["spec"]["model"]["name"] == model
    ]


def _wanted(found: Manifest) -> Revision:
    try:
        return make_revision(ModelRolloutSpec.model_validate(found["spec"]))
    except ValidationError as error:
        name = found["metadata"]["name"]
        raise DataError(
            f"ModelRollout {name} cannot be read: {brief(error)}",
            hint=f"kubectl edit modelrollout {name}",
        ) from error
