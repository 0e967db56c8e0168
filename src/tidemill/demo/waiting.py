"""Waiting for the platform's processes, with patience that ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from tidemill.errors import Timeout

__all__ = ["wait_for"]

LATE = 0.1
"""Share of the time waited so far that passes until the next look. Each costs milliseconds of CPU,
which those who are waited for need."""
SHORTEST, LONGEST = 0.01, 0.25
"""Seconds between two looks, at first and at last."""


def wait_for(what: str, reached: Callable[[], bool], patience: float = 180.0) -> float:
    """Wait until `reached`, and return the seconds it took; raises Timeout that names `what`."""
    begin = time.monotonic()
    while not reached():
        if time.monotonic() - begin > patience:
            raise Timeout(
                f"{what} did not happen within {patience:.0f} s",
                hint="the logs of the platform's processes are in .tidemill/logs of the demo",
            )
        time.sleep(min(LONGEST, max(SHORTEST, LATE * (time.monotonic() - begin))))
    return time.monotonic() - begin
