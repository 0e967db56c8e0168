"""What tests say to the process node: which files stand for which image."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.node.images import Image


@dataclass(frozen=True)
class Workloads:
    """The table of images that the node reads, in `folder`."""

    folder: Path

    def add_image(self, name: str, image: Image | None) -> None:
        """Let an image name or glob stand for a root file system; None cannot be pulled."""
        table = self.folder / "images.json"
        with (self.folder / "images.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this test run add theirs
            known = json.loads(table.read_text()) if table.exists() else {}
            known[name] = image and asdict(image)
            fresh = table.with_suffix(".new")
            fresh.write_text(json.dumps(known))
            fresh.replace(table)
