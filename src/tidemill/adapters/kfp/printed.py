"""What a step printed: without KFP's own lines, and what it says the step failed of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from tidemill import errors

__all__ = ["cause_of", "is_refusal", "last_words", "without_colour", "without_noise"]

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
NOISE = re.compile(
    r"\[KFP Executor .*\]: (Looking for component `|Loading KFP component \"|Wrote executor output"
    r"|Did not write output file)"
    # On a cluster also the launcher's, in klog's form, and those of Argo's emissary.
    r"|[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \w+\.go:\d+\]"
    r"|time=\S+ level=\w+ msg=.* argo=true"
)
OBJECT = re.compile(r"(\[KFP Executor .*\]: Got executor_input:|.*\.go:\d+\] \w+: \{)$")
"""The line after which, or with which, one of them prints a JSON object, to a line with `}`."""


def without_noise(lines: Iterable[str]) -> Iterator[str]:
    """Drop what KFP's executor and launcher tell about themselves, and colours."""
    in_object = False
    for line in lines:
        if OBJECT.match(line.rstrip()):
            in_object = True
        elif in_object:
            in_object = line.rstrip() != "}"
        elif not NOISE.match(line):
            yield without_colour(line)


def without_colour(text: str) -> str:
    """Return `text` without terminal escapes."""
    return COLOUR.sub("", text)


def cause_of(lines: Iterable[str], code: int) -> str:
    """Return the last exception of a step's output, or how its process ended."""
    if cause := _exception(lines := list(lines)):
        return cause
    if code < 0 or code > 128:
        return f"killed by signal {-code if code < 0 else code - 128}"
    last = _last(lines)
    return f"exit code {code}: {last}" if last else f"exit code {code}, no output"


def last_words(lines: Iterable[str]) -> str:
    """Return the last exception of a step's output, `Type: message`, or else its last line."""
    return _exception(lines := list(lines)) or _last(lines)


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _exception(listed: Sequence[str]) -> str:
    starts = [i for i, line in enumerate(listed) if line.startswith("Traceback (most recent call")]
    body = iter(listed[starts[-1] + 1 :] if starts else [])
    for line in body:
        if re.match(r"[A-Za-z_][\w.]*(:|$)", line):
            name, colon, message = line.partition(":")
            more = takewhile(lambda extra: extra.startswith("  "), body)
            return "\n".join([name.rpartition(".")[2] + colon + message, *more])
    return ""


def is_refusal(cause: str) -> bool:
    """Return whether the exception is a rule that said no about the model, such as a gate.

    Bytes that are not what was signed or pinned, as with a wrong key, say nothing about the model.
    """
    kind = getattr(errors, cause.partition(":")[0], None)
    if not isinstance(kind, type) or not issubclass(kind, errors.Refused):
        return False
    return not issubclass(kind, errors.IntegrityError)
