"""Token bucket: `rate` requests a second in the long run, `burst` at once.

https://en.wikipedia.org/wiki/Token_bucket. It is kept as one number, the moment at which it is full
again (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm), so that processes can share it.
"""

from __future__ import annotations

from typing import Protocol, Self

__all__ = ["EARLY_SECONDS", "Number", "Own", "TokenBucket"]


class Number(Protocol):
    """A number that is changed as a context, in which nobody else changes it."""

    value: float

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End."""
        ...


class Own:
    """A number of this process, which has one thread that changes it."""

    def __init__(self) -> None:
        self.value = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


EARLY_SECONDS = 1e-6
"""A token is given so much before its time: moments are rounded, and a burst must be whole."""


class TokenBucket:
    """Full at the start; at most `burst + rate * (t + 1e-6)` are taken in any `t` seconds."""

    def __init__(self, rate: float, burst: float, full: Number) -> None:
        """`full` holds when the bucket is full again, 0.0 at first, in `take`'s seconds."""
        self.rate = rate
        self.burst = burst
        self._full = full

    def take(self, now: float) -> float:
        """Take one token and return 0.0, or take none and return the seconds until there is one.

        `now` is in seconds of a monotonic clock, which all processes of a machine share; one that
        steps back adds nothing.
        """
        with self._full as full:
            missing = max(0.0, full.value - now) * self.rate
            if self.burst - missing < 1 - self.rate * EARLY_SECONDS:
                return (1 - self.burst + missing) / self.rate
            full.value = now + (missing + 1) / self.rate
        return 0.0
