"""Every error tidemill raises on purpose, and the two kinds the runtime acts on.

    TidemillError
    ├── RetryableError            the same call may succeed later: a server is down, a lock is held
    │   ├── Unavailable           a service did not answer (MLflow, Redis, a model server)
    │   └── Conflict              somebody else wrote first, or holds the lock
    └── PermanentError            the same call fails again until a person changes something
        ├── UsageError            a command was called wrongly                      (exit 2)
        │   └── ConfigError       the settings are wrong; names file, line, closest key
        ├── Refused               a rule said no: gate, governor, guard             (exit 3)
        │   └── IntegrityError    bytes are not what was signed, hashed or pinned
        │       └── Mismatch      two sound things do not belong together           (exit 1)
        ├── DataError             input data breaks its contract
        ├── NotFound              the named thing does not exist; lists what does
        ├── MissingExtra          an optional dependency is not installed; names the pip line
        └── StepFailed            a pipeline step failed; carries the step's cause
    Timeout                       (RetryableError) a deadline passed                (exit 4)

An SDK's exception never leaves its adapter: it is raised as one of these, the original chained.
A message says what, where, what was found, and in `hint` what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self

__all__ = [
    "ConfigError",
    "Conflict",
    "DataError",
    "IntegrityError",
    "Mismatch",
    "MissingExtra",
    "NotFound",
    "PermanentError",
    "Refused",
    "RetryableError",
    "StepFailed",
    "TidemillError",
    "Timeout",
    "Unavailable",
    "UsageError",
    "last_error",
]

SPOKEN = "tidemill: "
"""What an error begins with where a command ends with it."""
HINT = "\n  → "
MAX_SPOKEN = 600
"""A refused bundle's error names its folder, a row and two scores; a list may be far longer."""


class TidemillError(Exception):
    """Base of all deliberate errors.

    `hint` is the next thing to do, one sentence or one command; `exit_code` is what the command
    line returns (0 done, 1 failed, 2 usage, 3 refused by a rule, 4 timed out).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}{HINT}{self.hint}" if self.hint else self.message

    @property
    def spoken(self) -> str:
        """What a command prints when it ends with this error."""
        return f"{SPOKEN}{self}"


class RetryableError(TidemillError):
    """The same call may succeed later, unchanged."""


class Unavailable(RetryableError):
    """A service did not answer."""


class Conflict(RetryableError):
    """Somebody else wrote first or holds the lock."""


class Timeout(RetryableError):
    """A deadline passed."""

    exit_code = 4


class PermanentError(TidemillError):
    """The same call fails again until a person changes something."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        """Build the error for `name`, listing the closest or all known names."""
        names = sorted(known)
        close = get_close_matches(name, names, n=3)
        listed = ", ".join(close or names[:12]) or "none"
        lead = "did you mean" if close else "known"
        return cls(f"there is no {kind} '{name}'", hint=f"{lead}: {listed}")


class UsageError(PermanentError):
    """A command was called wrongly."""

    exit_code = 2


class ConfigError(UsageError):
    """The settings are wrong."""


class Refused(PermanentError):
    """A rule said no."""

    exit_code = 3


class IntegrityError(Refused):
    """Bytes are not what was signed, hashed or pinned."""


class Mismatch(IntegrityError):
    """Two things, each sound, do not belong together: the other one may still follow."""

    exit_code = 1


class DataError(PermanentError):
    """Input data breaks its contract."""


class NotFound(PermanentError):
    """The named thing does not exist."""


class MissingExtra(PermanentError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"the module '{module}' is not installed",
            hint=f"pip install 'tidemill[{extra}]'",
        )


class StepFailed(PermanentError):
    """A pipeline step failed."""


def last_error(output: str) -> str:
    """Return the message of the error that a command ended with, from what it printed.

    Without its hint, on one line, MAX_SPOKEN characters of it; empty when there is no such error.
    Of a message of several lines that has no hint it is the first: what follows may be another's.
    """
    _, found, said = f"\n{output}".rpartition(f"\n{SPOKEN}")
    message, hinted, _ = said.partition(HINT)
    whole = message if hinted else message.partition("\n")[0]
    return " ".join(whole.split())[:MAX_SPOKEN] if found else ""
