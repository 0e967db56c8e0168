"""What a caller of the judge says, and how it is refused.

The fields are flat and every number may be a text: Argo Rollouts substitutes its arguments into
JSON strings, Flagger's metadata hold nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from tidemill.domain.rollout.judge import Question
from tidemill.errors import UsageError
from tidemill.ports.rollout import Tails

__all__ = ["Asked", "read_body", "read_flagger", "read_query"]

HINT = "the fields are those of docs/rollout-interop.md"

Arm = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9-]+/[a-z0-9-]+|[A-Za-z0-9.\[\]_-]+:[0-9]+(,[A-Za-z0-9.\[\]_-]+:[0-9]+)*)$",
        max_length=4000,
    ),
]
RevisionName = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{10})?$")]


def _names(value: object) -> object:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


class Asked(BaseModel):
    """One question, as it arrives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: Annotated[str, StringConstraints(min_length=1, max_length=400)]
    stable: Arm
    canary: Arm
    weight: Annotated[float, Field(ge=0, le=100)]
    gate: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    min_events: Annotated[int, Field(ge=0)] = 0
    stable_revision: RevisionName = ""
    canary_revision: RevisionName = ""
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _whole(self) -> Asked:
        if not self.gate and not self.min_events:
            raise ValueError("give gate, min_events or both: what must hold for a pass")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high belong together: the tails of stable's scores")
        return self

    @property
    def question(self) -> Question:
        """What is asked of the evidence."""
        return Question(self.attempt, round(self.weight * 100), self.gate, self.min_events)

    @property
    def tails(self) -> Tails | None:
        """The tails of stable's scores, if the caller knows them."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def read_body(body: bytes) -> Asked:
    """Read a question from JSON; raises UsageError."""
    return _read(_document(body))


def read_query(query: str) -> Asked:
    """Read a question from a URL's query; raises UsageError."""
    return _read(dict(parse_qsl(query, keep_blank_values=True)))


def read_flagger(body: bytes, weight: Callable[[str, str], float]) -> Asked:
    """Read a question from the payload of Flagger's webhooks; raises UsageError.

    Servers are behind the Services that Flagger makes, the attempt is that of the checksum. The
    payload has no weight: `weight` finds it, percent, by namespace and name of the canary. What
    `metadata` say goes first.
    """
    payload = _document(body)
    absent = [k for k in ("name", "namespace", "checksum") if not isinstance(payload.get(k), str)]
    if absent:
        raise UsageError(f"the payload lacks {', '.join(absent)}: is it Flagger's?", hint=HINT)
    where = f"{payload['namespace']}/{payload['name']}"
    said = payload.get("metadata") or {}
    if not isinstance(said, Mapping):
        raise UsageError("metadata: expected names and texts", hint=HINT)
    known: dict[str, Any] = {
        "attempt": f"{where}/{payload['checksum']}",
        "stable": f"{where}-primary",
        "canary": f"{where}-canary",
        **said,
    }
    if "weight" not in known:
        known["weight"] = weight(payload["namespace"], payload["name"])
    return _read(known)


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise UsageError(f"the body is no JSON: {error}", hint=HINT) from None
    if not isinstance(found, dict):
        raise UsageError(f"the body is a {type(found).__name__}, expected an object", hint=HINT)
    return found


def _read(fields: Mapping[str, Any]) -> Asked:
    try:
        return Asked.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the question'}: {one['msg']}"
            for one in error.errors()
        )
        raise UsageError(problems, hint=HINT) from None
