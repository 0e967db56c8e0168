"""What every settings group shares."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

__all__ = ["DatabaseUrl", "Group", "PublicName", "Secret", "Url", "looks_secret", "redact"]

SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|CREDENTIAL|TOKENS?(_|$)|(^|_)(PASS|(API)?KEYS?)(_|$)", re.IGNORECASE
)
URL_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]+(?=@)|([?&]password=)[^&]+")
"""Before the `@`, or in the query."""


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


def looks_secret(name: str) -> bool:
    """Tell whether what goes by this name is likely a secret."""
    return bool(SECRET_NAME.search(name))


def redact(text: str) -> str:
    """Return `text` without the passwords of the URLs in it."""
    return URL_PASSWORD.sub(r"\1\2***", text)


def _public_name(name: str) -> str:
    if looks_secret(name):
        raise ValueError(
            "looks like the name of a secret, and these values are stored and shown: "
            "on KFP name a Kubernetes secret in execution.kfp.secrets, "
            "on one machine export the variable before the command"
        )
    return name


def _without_password(url: str, remedy: str) -> str:
    if redact(url) != url:
        raise ValueError(f"a URL holds no password, it would be stored and shown: {remedy}")
    return url


def _url(url: str) -> str:
    return _without_password(url, "credentials come from a token setting or the environment")


def _database_url(url: str, info: ValidationInfo) -> str:
    return _without_password(url, f"give it by reference in '{info.field_name}_password'")


Url = Annotated[str, AfterValidator(_url)]
"""A folder or a URL without a password."""
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
"""An SQLAlchemy URL without a password; the field `<name>_password` beside it holds a reference."""
PublicName = Annotated[str, AfterValidator(_public_name)]
"""Name of an environment variable that holds no secret."""
SECRET = AfterValidator(_reference)
Secret = Annotated[str, SECRET]
"""A reference to a secret, `env:NAME` or `file:PATH`; empty means none."""
