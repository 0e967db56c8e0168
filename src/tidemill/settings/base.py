"""What every settings group shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["Group", "Secret"]


class Group(BaseModel):
    """A group of settings: unknown keys are errors, values are frozen once loaded."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


def _reference(value: str) -> str:
    if value and not value.startswith(("env:", "file:")):
        raise ValueError(
            "a secret is given by reference: 'env:NAME' or 'file:/path', never by its value"
        )
    return value


Secret = Annotated[str, AfterValidator(_reference)]
"""A reference to a secret, `env:NAME` or `file:PATH`; empty means none."""
