"""Secrets: settings hold references, the value is read at the moment of use."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.errors import ConfigError

__all__ = ["reveal"]


def reveal(reference: str) -> str:
    """Return the value of `env:NAME` or `file:PATH`; empty stays empty. Raises ConfigError."""
    kind, _, place = reference.partition(":")
    if not reference:
        return ""
    if kind == "env":
        if place not in os.environ:
            raise ConfigError(f"the secret env:{place} is not set", hint=f"export {place}=…")
        return os.environ[place]
    try:
        return Path(place).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ConfigError(
            f"the secret file:{place} cannot be read: {error.strerror}",
            hint="write the secret into that file, or correct the setting that names it",
        ) from error
