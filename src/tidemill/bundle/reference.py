"""The bundle's reference profile as a value."""

from __future__ import annotations

from pathlib import Path

from tidemill.bundle.content import read
from tidemill.domain.profile import Profile
from tidemill.errors import IntegrityError

__all__ = ["read_profile"]

PROFILE = "profile.json"
RELEASE = "train and release the model again: the profile is part of its bundle"


def read_profile(folder: Path) -> Profile:
    """Read `profile.json`.

    Raises IntegrityError when it is absent or malformed, Unavailable when the disk does not give
    it.
    """
    from pydantic import TypeAdapter

    content = read(folder, PROFILE)
    if content is None:
        raise IntegrityError(f"{folder} holds no reference profile {PROFILE}", hint=RELEASE)
    try:
        return TypeAdapter(Profile).validate_json(content)
    except ValueError as error:
        raise IntegrityError(
            f"the reference profile {folder / PROFILE} is malformed: {error}", hint=RELEASE
        ) from error
