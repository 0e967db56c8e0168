"""The priority of work that may wait."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["keep_priority"]

GROUP = Path("/proc/self/autogroup")
TRIES, PAUSE_SECONDS = 20, 0.1
"""Linux takes one such value in a tenth of a second from all who have no privilege."""


def keep_priority() -> None:
    """Give the session that this process leads the process's own nice value.

    Linux may schedule sessions instead of processes (`sched_autogroup_enabled`, sched(7)): a nice
    value then counts among the processes of one session alone, and the session has one of its own,
    0 at first. Where it has none, or may not change it, nothing happens.
    """
    for _ in range(TRIES):
        try:
            GROUP.write_text(str(os.nice(0)))
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        except OSError:
            return
        else:
            return
