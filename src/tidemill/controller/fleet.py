"""Many rollouts, some workers: each rollout is looked at by one worker at a time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread
from typing import Literal

import structlog

from tidemill.controller.queue import WorkQueue
from tidemill.errors import Conflict, TidemillError

__all__ = ["Fleet", "Result"]

log = structlog.get_logger(__name__)
Result = Literal["done", "conflict", "failed", "broken"]
"""How a look ended: as meant, void because somebody else wrote first, with an error that another
look may not meet, by a fault of ours."""
FIRST_RETRY, MAX_RETRY = 1.0, 60.0
"""Seconds until a key is looked at again after a look that failed; doubled each time."""
STUCK_SECONDS = 120.0
"""Longer than any look can take whose calls all run into their timeouts: then a worker hangs."""


class Fleet:
    """Looks at each key when it is due, again after what the look says, later after an error."""

    def __init__(
        self,
        look: Callable[[str], float | None],
        queue: WorkQueue,
        observed: Callable[[float, Result], None] = lambda _seconds, _result: None,
    ) -> None:
        """`look` returns seconds until the next look, None for never.

        `observed` is told how long a look took and how it ended.
        """
        self._look = look
        self._queue = queue
        self._observed = observed
        self._failures: Counter[str] = Counter()

    def run(self, stop: Event, workers: int) -> None:
        """Work until `stop` is set and every look that was begun has ended."""
        threads = [Thread(target=self._work, name=f"worker-{n}") for n in range(workers)]
        for thread in threads:
            thread.start()
        stop.wait()
        self._queue.close()
        for thread in threads:
            thread.join()

    def problem(self) -> str:
        """Say that reconciling has stopped; empty while it goes on."""
        overdue = self._queue.overdue()
        return f"a rollout waits since {overdue:.0f} s" if overdue > STUCK_SECONDS else ""

    def _work(self) -> None:
        while (key := self._queue.take()) is not None:
            wait = self._once(key)
            self._queue.done(key)
            if wait is not None:
                self._queue.add(key, wait)

    def _once(self, key: str) -> float | None:
        """Look at a key; whatever goes wrong with it is no reason to leave the others alone."""
        began = time.monotonic()
        result: Result = "done"
        try:
            wait = self._look(key)
            self._failures.pop(key, None)
        except Conflict as error:  # what was read is stale: the watch may need a moment, too
            result, wait = "conflict", self._later(key)
            log.info("somebody else was first", rollout=key, problem=error.message, after=wait)
        except TidemillError as error:
            result, wait = "failed", self._later(key)
            log.warning("will look again", rollout=key, problem=error.message, after=wait)
        except Exception:  # a fault of one look; the thread that met it works for all rollouts
            result, wait = "broken", self._later(key)
            log.exception("a look broke off", rollout=key, after=wait)
        self._observed(time.monotonic() - began, result)
        return wait

    def _later(self, key: str) -> float:
        self._failures[key] += 1
        wait = min(MAX_RETRY, FIRST_RETRY * 2.0 ** (self._failures[key] - 1))
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries
