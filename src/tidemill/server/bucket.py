"""Token bucket: `rate` requests a second in the long run, `burst` at once.

https://en.wikipedia.org/wiki/Token_bucket.
"""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Full at the start; in any span of `t` seconds at most `burst + rate * t` are taken."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one token and return 0.0, or take none and return the seconds until there is one.

        `now` is in seconds of a monotonic clock; one that steps back adds nothing.
        """
        passed = max(0.0, now - self._at)
        self._at = max(self._at, now)
        self._tokens = min(self.burst, self._tokens + passed * self.rate)
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0
