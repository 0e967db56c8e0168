"""What the custom resources' schemas are made of: bounded texts, decimal numbers, CEL rules.

Numbers with a fraction are decimal strings: clients and API servers may rewrite a float. Durations
are whole seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

__all__ = ["LongName", "Name", "Number", "Reference", "Schema", "Seconds", "brief", "rules"]

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

Name = Annotated[str, StringConstraints(pattern=NAME, max_length=63)]
LongName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)
]
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", max_length=19)]
Seconds = Annotated[int, Field(ge=0, le=31_622_400)]


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return CEL rules, each with the message of its refusal, as a schema's extension."""
    found = [{"rule": rule, "message": message} for rule, message in pairs]
    return {"x-kubernetes-validations": found}


class Schema(BaseModel):
    """A part of a resource; unknown fields are errors, docstrings become descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Reference(Schema):
    """An object of the same namespace."""

    name: LongName
    """Its name."""


def brief(error: ValidationError) -> str:
    """Name each field that is wrong, and how."""
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
        for found in error.errors()
    )
