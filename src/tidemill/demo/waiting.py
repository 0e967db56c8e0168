"""Waiting for the platform's processes, with patience that ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from tidemill.errors import Timeout

__all__ = ["wait_for"]

LOOK_SECONDS = 0.02


def wait_for(what: str, reached: Callable[[], bool], patience: float = 180.0) -> float:
    """Wait until `reached`, and return the seconds it took; raises Timeout that names `what`."""
    begin = time.monotonic()
    while not reached():
        if time.monotonic() - begin > patience:
            raise Timeout(
                f"{what} did not happen within {patience:.0f} s",
                hint="the logs of the platform's processes are in .tidemill/logs of the demo",
            )
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - begin
