"""Which requests the prediction log keeps: a share of all, and by rule what is worth a look.

A row's chance to be in the log is 1 where `kept` names a rule, else `sample_share`. Statistics use
the rows that are `sampled`: whatever the rules keep beside them is no picture of the traffic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from tidemill.server.encoding import Prediction
from tidemill.settings.serving import KeepRule, PredictionLogSettings

__all__ = ["Sampler"]

WHOLE = 2**64


class Sampler:
    """Decides about one answered request at a time."""

    def __init__(self, settings: PredictionLogSettings, slow_seconds: float) -> None:
        rules: dict[KeepRule, Callable[[Prediction], bool]] = {
            "slow": lambda prediction: prediction.seconds > slow_seconds,
            "invalid": _invalid,
            "defaulted": lambda prediction: bool(prediction.defaulted),
        }
        self._rules = {name: rules[name] for name in settings.keep}
        self._share = settings.sample

    def choose(self, prediction: Prediction) -> bool:
        """Note on a prediction why it is kept, and return whether it is."""
        prediction.share = self._share
        prediction.sampled = self._share >= 1 or _place(prediction.request_id) < self._share
        if self._rules:
            prediction.kept = [name for name, holds in self._rules.items() if holds(prediction)]
        return prediction.sampled or bool(prediction.kept)


def _place(request_id: str) -> float:
    """Return a number in [0, 1) that is the request's in every process and at every share."""
    found = hashlib.sha256(request_id.encode(errors="surrogatepass")).digest()
    return int.from_bytes(found[:8]) / WHOLE


def _invalid(prediction: Prediction) -> bool:
    return not all(0.0 <= score <= 1.0 for score in prediction.scores)  # NaN compares false
