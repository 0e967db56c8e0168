"""The daemon that keeps the gateway: `python -m tests.cluster.gateway FOLDER PLANE`.

PLANE is the `ready.json` of the control plane, whose node must run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster import shared
from tests.cluster.controlplane import Ready
from tests.cluster.gateway.controller import running
from tests.cluster.threads import in_thread

if __name__ == "__main__":
    folder, plane = map(Path, sys.argv[1:])
    shared.serve(folder, in_thread(running(Ready.read(plane), folder)))
