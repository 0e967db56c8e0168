"""Circuit breaker: leave what fails alone, and try it again now and then.

https://martinfowler.com/bliki/CircuitBreaker.html.
"""

from __future__ import annotations

__all__ = ["Circuit"]


class Circuit:
    """Opens after `failures` in a row; then lets one try through per pause until one succeeds.

    The pause is `first_seconds` and doubles with each try, up to `longest_seconds`. A try whose end
    is never reported, because its caller is gone, is no different from one that failed.
    """

    def __init__(self, failures: int, first_seconds: float, longest_seconds: float) -> None:
        self.open = False
        self._limit = failures
        self._first = first_seconds
        self._longest = longest_seconds
        self._failures = 0
        self._pause = first_seconds
        self._retry_at = 0.0

    def admit(self, now: float) -> bool:
        """Return whether to try; `now` is in seconds of a monotonic clock."""
        if not self.open:
            return True
        if now < self._retry_at:
            return False
        self._pause = min(2 * self._pause, self._longest)
        self._retry_at = now + self._pause
        return True

    def record(self, now: float, *, ok: bool) -> bool:
        """Note how a try ended; return whether the circuit opened or closed by it."""
        before = self.open
        if ok:
            self._failures = 0
            self.open = False
        else:
            self._failures += 1
            self.open = before or self._failures >= self._limit
        if self.open and not before:
            self._pause = self._first
            self._retry_at = now + self._first
        return self.open is not before
