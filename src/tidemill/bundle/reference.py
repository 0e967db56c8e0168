"""The bundle's reference profile as a value."""

from __future__ import annotations

from pathlib import Path

from tidemill.domain.profile import Profile
from tidemill.errors import IntegrityError

__all__ = ["read_profile"]


def read_profile(folder: Path) -> Profile:
    """Read `profile.json`; raises IntegrityError when it is absent or malformed."""
    from pydantic import TypeAdapter

    path = folder / "profile.json"
    try:
        return TypeAdapter(Profile).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"the reference profile {path} cannot be read: {error}",
            hint="train and release the model again: the profile is part of its bundle",
        ) from error
