"""The daemon that keeps a node: `python -m tests.cluster.node FOLDER PLANE`.

PLANE is the `ready.json` of the control plane.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cluster import shared
from tests.cluster.controlplane import NODE, Ready
from tests.cluster.node.node import running
from tests.cluster.threads import in_thread

if __name__ == "__main__":
    folder, plane = map(Path, sys.argv[1:])
    shared.serve(folder, in_thread(running(NODE, Ready.read(plane), folder)))
