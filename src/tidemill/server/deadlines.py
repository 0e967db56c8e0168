"""Deadlines: how long a request may take in all, once it has arrived.

Every request has the same time, so they are over in the order in which they began, and one timer is
enough: that of the oldest. What a request pays is an entry in a dictionary.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from types import TracebackType
from typing import Any

from tidemill.server.protocol import Rejected
from tidemill.server.trail import Trail

__all__ = ["Deadlines"]


class Deadlines:
    """Ends the requests that took too long; belongs to one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running: dict[asyncio.Task[Any], Trail] = {}
        self._timer: asyncio.TimerHandle | None = None

    def of(self, trail: Trail) -> _Deadline:
        """Return a context for the answering of one request, by the task that enters it.

        When the time is over the task is cancelled wherever it waits, the request's trail is
        `late`, and the context raises Rejected with 504. What runs without waiting ends first. If
        it was over before, the context is not entered and nothing is cancelled.
        """
        return _Deadline(self, trail)

    def watch(self) -> None:
        """See to it that the oldest request is looked at when its time is over."""
        if self._timer is None:
            self._expire()

    def _expire(self) -> None:
        now = perf_counter()
        self._timer = None
        for task, trail in self.running.items():
            if (left := trail.arrived + self.seconds - now) > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._expire)
                return
            # The one that asks was in time when it entered; if it is not any more it is looked at
            # again in the loop's next turn, as a task that cancels itself would not end at once.
            if task is asyncio.current_task():
                self._timer = asyncio.get_running_loop().call_later(0, self._expire)
            elif not trail.late:
                trail.late = True
                task.cancel()


class _Deadline:
    """That of one request."""

    __slots__ = ("_all", "_task", "_trail")

    def __init__(self, deadlines: Deadlines, trail: Trail) -> None:
        self._all = deadlines
        self._trail = trail

    def __enter__(self) -> None:
        if self._trail.arrived + self._all.seconds <= perf_counter():
            self._trail.late = True
            raise self._refusal()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._all.running[task] = self._trail
        self._all.watch()

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        del self._all.running[self._task]
        # Whoever else cancelled the task, as the end of the process does, is not answered for.
        if kind is asyncio.CancelledError and self._trail.late and not self._task.uncancel():
            raise self._refusal() from None

    def _refusal(self) -> Rejected:
        message = f"the request was not answered within {self._all.seconds:g} s"
        return Rejected("deadline_exceeded", message, 504)
