"""Keys to be looked at: each at most once at a time, now or later."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from threading import Condition

__all__ = ["WorkQueue"]


class WorkQueue:
    """A queue of keys; a key that is added again while it is looked at is due again afterwards."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = Condition()
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._taken: dict[str, float] = {}
        self._moved = monotonic()
        self._closed = False

    def add(self, key: str, after: float = 0.0) -> None:
        """Make `key` due in `after` seconds, unless it is due earlier."""
        due = self._monotonic() + after
        with self._changed:
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                heapq.heappush(self._heap, (due, key))
                self._changed.notify_all()

    def take(self) -> str | None:
        """Wait for a key that is due and that nobody has; None when the queue is closed."""
        with self._changed:
            self._moved = self._monotonic()
            while not self._closed:
                wait = self._next()
                if isinstance(wait, str):
                    self._taken[wait] = self._moved = self._monotonic()
                    del self._due[wait]
                    return wait
                self._changed.wait(wait)
        return None

    def done(self, key: str) -> None:
        """Give a key back; if it was added meanwhile it is due."""
        with self._changed:
            del self._taken[key]
            if key in self._due:
                heapq.heappush(self._heap, (self._due[key], key))
                self._changed.notify_all()

    def close(self) -> None:
        """Let everybody who waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def overdue(self) -> float:
        """Return for how many seconds a key has been looked at, or was due and nobody took any."""
        with self._changed:
            waiting = [due for key, due in self._due.items() if key not in self._taken]
            since = [*self._taken.values(), *(max(due, self._moved) for due in waiting)]
            return max(0.0, self._monotonic() - min(since)) if since else 0.0

    def __len__(self) -> int:
        return len(self._due)

    def _next(self) -> str | float | None:
        """Return a key that can be had, or how long to wait for one; None: until one is added.

        Entries of the heap that no longer hold are dropped; those of keys in work come back with
        `done`.
        """
        while self._heap:
            due, key = self._heap[0]
            if self._due.get(key) != due or key in self._taken:
                heapq.heappop(self._heap)
                continue
            wait = due - self._monotonic()
            if wait > 0:
                return wait
            heapq.heappop(self._heap)
            return key
        return None
