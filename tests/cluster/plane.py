"""The daemon that keeps a control plane: `python -m tests.cluster.plane FOLDER PROGRAMS`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cluster import addresses, controlplane, shared


@contextmanager
def running(folder: Path, programs: Path) -> Iterator[dict[str, Any]]:
    """Run a control plane on addresses of its own and yield what its holders need to know."""
    with addresses.claimed() as block, controlplane.running(folder, programs, block) as ready:
        yield asdict(ready)
    shutil.rmtree(folder / "etcd", ignore_errors=True)  # 130 MB that pytest would keep


if __name__ == "__main__":
    shared.serve(Path(sys.argv[1]), running(Path(sys.argv[1]), Path(sys.argv[2])))
