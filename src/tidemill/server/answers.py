"""What was answered lately, for a controller that compares two versions request by request.

A request is known by two digests: of its id, which the gateway gives it (`x-request-id`) and a
mirrored copy of it has too, and of its content. Neither can be turned back into what it was made
of, and nothing is stored: the table is a bounded piece of memory. Answers to clients are noted only
while somebody reads them; so nobody pays for it outside a shadow step.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from time import monotonic
from typing import NamedTuple

from msgspec import Struct

__all__ = ["Answers", "Identity", "Page", "Told", "identify"]

KEPT = 16_384
"""Answers in memory, some 6 MB: what 1,000 requests a second leave within 16 seconds."""
PAGE = 4_096
"""Answers in one page."""
ROWS = 32
"""Scores that are kept of a request."""
OPEN_SECONDS = 120.0
"""Answers are noted for this long after they were last read; a controller reads at least once a
minute."""
REQUEST_ID = b"x-request-id"


class Identity(NamedTuple):
    """Digests of a request, each of 16 hexadecimal digits."""

    id: str
    """Of the id; empty when the gateway gave none: then the content alone tells requests apart."""
    content: str


class Told(Struct, array_like=True):
    """One answer."""

    number: int
    """Counts from 1 since the start."""
    age: float
    """Seconds since it was given, by this server's clock."""
    id: str
    content: str
    outcome: str
    """ok, error, rejected or overloaded."""
    slow: bool
    scores: list[float | None]
    """Of the first 32 rows; null is no number."""


class Page(Struct):
    """Answers in the order in which they were given."""

    revision: str
    start: str
    """Another one means that the numbers began anew."""
    count: int
    """Number of the last answer, whether it is in this page, follows or was forgotten."""
    answers: list[Told]


class _Note(NamedTuple):
    moment: float
    identity: Identity
    outcome: str
    slow: bool
    scores: list[float | None]


class Answers:
    """The last answers of one version of a model to one kind of request."""

    def __init__(self, revision: str, slow_seconds: float) -> None:
        self._revision = revision
        self._slow_seconds = slow_seconds
        self._start = uuid.uuid4().hex
        self._count = 0
        self._notes: deque[_Note] = deque(maxlen=KEPT)
        self._until = 0.0

    @property
    def wanted(self) -> bool:
        """Whether somebody reads what is noted."""
        return monotonic() < self._until

    def note(
        self, identity: Identity, outcome: str, seconds: float, scores: Sequence[float]
    ) -> None:
        """Remember one answer; the oldest one may be forgotten for it."""
        kept: list[float | None] = list(scores[:ROWS])
        self._count += 1
        slow = seconds > self._slow_seconds
        self._notes.append(_Note(monotonic(), identity, outcome, slow, kept))

    def page(self, after: int) -> Page:
        """Return the answers that follow the one with this number, as far as they are kept."""
        now = monotonic()
        self._until = now + OPEN_SECONDS
        first = self._count - len(self._notes) + 1
        skip = max(0, after + 1 - first)
        found = [
            Told(
                first + place,
                now - note.moment,
                note.identity.id,
                note.identity.content,
                note.outcome,
                note.slow,
                note.scores,
            )
            for place, note in islice(enumerate(self._notes), skip, skip + PAGE)
        ]
        return Page(self._revision, self._start, self._count, found)


def identify(headers: Mapping[bytes, bytes], body: bytes) -> Identity:
    """Return what tells a request apart from others, and is equal for its mirrored copy."""
    given = headers.get(REQUEST_ID, b"")
    return Identity(_digest(given) if given else "", _digest(body))


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
