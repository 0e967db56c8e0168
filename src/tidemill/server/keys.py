"""API keys: the file that holds their hashes, and which key a token is.

A token is 32 random bytes in base64, after a prefix that scanners for leaked secrets can find. The
file holds its SHA-256: a slow hash protects secrets that can be guessed, 256 random bits cannot,
and a token of any other form is refused before it is looked up, so no shorter one can be in use.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from tidemill.errors import ConfigError, UsageError
from tidemill.settings.base import Group

__all__ = ["ApiKey", "Permission", "digest", "make_entry", "new_token", "read_keys"]

PREFIX = b"tidemill_"
TOKEN = re.compile(PREFIX + rb"[A-Za-z0-9_-]{43}")
HINT = "tidemill serve key new NAME prints a token and its entry"

Permission = Literal["infer", "admin"]


class ApiKey(Group):
    """One entry of the file."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name in events and messages."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the token, hexadecimal."""
    permissions: frozenset[Permission] = Field(min_length=1)
    """`infer`: models and their metadata. `admin`: orders to the repository, and metrics where they
    are not open. Neither includes the other."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Requests a second of all workers of a server; none: no limit."""
    burst: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Requests at once; default: the rate, at least 1."""
    quota: Annotated[int, Field(ge=1)] | None = None
    """Requests a day (UTC), shared by the processes of this machine; none: no limit."""
    expires: AwareDatetime | None = None
    """The key is refused from then on; none: never."""


_entries: TypeAdapter[list[ApiKey]] = TypeAdapter(list[ApiKey])


def new_token() -> str:
    """Return a fresh token; it is kept nowhere."""
    return PREFIX.decode() + secrets.token_urlsafe(32)


def make_entry(name: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return a fresh token and its entry; raises UsageError when `options` make no ApiKey."""
    token = new_token()
    try:
        made = ApiKey(id=name, sha256=digest(token.encode()) or "", **options)
    except ValidationError as error:
        problems = "; ".join(_problem(p["loc"], p["msg"]) for p in error.errors())
        raise UsageError(f"this makes no key: {problems}") from None
    entry = made.model_dump(mode="json", exclude_none=True)
    return token, entry | {"permissions": sorted(made.permissions)}


def digest(token: bytes) -> str | None:
    """Return a token's SHA-256 in hexadecimal; None when it has not the form of a token."""
    return hashlib.sha256(token).hexdigest() if TOKEN.fullmatch(token) else None


def read_keys(path: Path) -> list[ApiKey]:
    """Read the file; raises ConfigError that names the entry and what is wrong with it."""
    try:
        found = _entries.validate_python(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"API keys: {path} cannot be read: {error.strerror}", hint=HINT
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"API keys: {path} is no YAML document: {error}") from error
    except ValidationError as error:
        problems = "; ".join(_problem(p["loc"], p["msg"]) for p in error.errors())
        raise ConfigError(f"API keys: {path}: {problems}", hint=HINT) from None
    for what, values in (("id", [k.id for k in found]), ("sha256", [k.sha256 for k in found])):
        if twice := _repeated(values):
            raise ConfigError(f"API keys: {path}: the {what} '{twice}' is there twice")
    return found


def _problem(place: tuple[int | str, ...], message: str) -> str:
    """Name the entry, not its value: somebody may have written the token itself."""
    return f"{'.'.join(map(str, place)) or 'the document'}: {message}"


def _repeated(values: Iterable[str]) -> str:
    return next((value for value, times in Counter(values).items() if times > 1), "")
