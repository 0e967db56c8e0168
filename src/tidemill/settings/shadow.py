"""Shadow steps: what is mirrored to a canary, and what is compared pair by pair."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tidemill.settings.base import Group

__all__ = ["PairedMetric", "ShadowStep"]


class ShadowStep(Group):
    """Mirrors real requests to the canary; its answers are dropped, clients never see them."""

    percent: int = Field(ge=1, le=100)
    """Share of the requests that is mirrored, in percent: the canary's load."""


class PairedMetric(Group):
    """One event whose share of the pairs must stay below a limit, in a shadow step."""

    name: str
    """Name, referred to by the gate of the shadow step."""
    event: Literal["flip", "difference", "failed", "slower"]
    """What is counted per pair. `flip`: a row's label differs, each arm's score against its own
    threshold; `difference`: a row's scores differ by more than `max_difference`; `failed`: stable
    answered and the canary did not; `slower`: the canary took longer than `serving.slow_ms` and
    stable did not. Of a request with many rows the first 32 are compared."""
    max_rate: float = Field(gt=0, lt=1)
    """Pass is a rate below this, shown at level `beta`; harm is one above, shown at its alpha."""
    max_difference: float = Field(default=0.1, gt=0, lt=1)
    """Of scores, for the event `difference`."""
    alpha_share: float = Field(default=0.1, gt=0, le=1)
    """This metric's part of the attempt's false-rollback budget."""
