"""A tracker that writes a file: for trainings without a tracking server, such as `dvc repro`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tidemill.errors import Unavailable

__all__ = ["JournalTracker"]


class JournalTracker:
    """Appends what is recorded to a file, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log_params(self, params: Mapping[str, str | int | float | bool]) -> None:
        """Append `{"params": …}`."""
        self._append({"params": dict(params)})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append `{"metrics": …, "step": …}`."""
        self._append({"metrics": dict(metrics), "step": step})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Append `{"tags": …}`."""
        self._append({"tags": dict(tags)})

    def _append(self, body: Mapping[str, object]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(body, sort_keys=True) + "\n")
        except OSError as error:
            raise Unavailable(
                f"the journal {self._path} cannot be written: {error.strerror}",
                hint="free space or mend the folder, then run the step again",
            ) from error
