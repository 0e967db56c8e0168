"""Startup, readiness and liveness of one run of a container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.cluster.node.api import Object

Perform = Callable[[Object], Awaitable[bool]]


class Prober:
    """Knows whether one run of a container is `started` and `ready` while `watch` is awaited."""

    def __init__(self, container: Object, perform: Perform, changed: Callable[[], None]) -> None:
        self._container, self._perform, self._changed = container, perform, changed
        self.started = "startupProbe" not in container
        self.ready = self.started and "readinessProbe" not in container

    async def watch(self) -> str:
        """Return why the container must be restarted; until then, run until cancelled."""
        if "startupProbe" in self._container:
            async for good in self._verdicts(self._container["startupProbe"]):
                if not good:
                    return "startup probe failed"
                break
            self.started, self.ready = True, "readinessProbe" not in self._container
            self._changed()
        readiness = asyncio.ensure_future(self._watch_readiness())
        try:
            return await self._watch_liveness()
        finally:
            readiness.cancel()

    async def _watch_readiness(self) -> None:
        if "readinessProbe" in self._container:
            async for good in self._verdicts(self._container["readinessProbe"]):
                self.ready = good
                self._changed()

    async def _watch_liveness(self) -> str:
        if "livenessProbe" in self._container:
            async for good in self._verdicts(self._container["livenessProbe"]):
                if not good:
                    return "liveness probe failed"
        await asyncio.Event().wait()
        return ""

    async def _verdicts(self, probe: Object) -> AsyncIterator[bool]:
        """Yield each change of mind: so many successes in a row, or so many failures."""
        thresholds = {True: probe.get("successThreshold", 1), False: probe["failureThreshold"]}
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        last, row, verdict = False, 0, None
        while True:
            good = await self._once(probe)
            row = row + 1 if good == last else 1
            last = good
            if row >= thresholds[good] and verdict != good:
                verdict = good
                yield good
            await asyncio.sleep(probe["periodSeconds"])

    async def _once(self, probe: Object) -> bool:
        try:
            return await asyncio.wait_for(self._perform(probe), probe["timeoutSeconds"])
        except TimeoutError:
            return False
