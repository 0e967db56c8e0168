"""Train and export in a process of its own: `python -m tests.training_child PARQUET OUT`.

Prints a line per epoch, so that a test can kill it in the middle.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests import flights

from tidemill.settings.model import ExportSettings
from tidemill.steps.export import export
from tidemill.steps.train import train
from tidemill.steps.training_data import TrainingData, read_training_data
from tidemill.testing.tracking import MemoryTracker

LINEAGE = {"data_version": "0" * 32 + ".dir", "git_commit": "0" * 40}
EPOCHS = 6


class Announcing(MemoryTracker):
    """Says which epoch was recorded."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        super().log_metrics(metrics, step)
        sys.stdout.write(f"recorded epoch {step}\n")
        sys.stdout.flush()


def read(rows: Path) -> TrainingData:
    """Return what it trains on."""
    settings = flights.settings(epochs=EPOCHS, patience=EPOCHS)
    hours = flights.MATURITY_HOURS
    return read_training_data(rows, settings, as_of=flights.AS_OF, maturity_hours=hours)


def main(rows: Path, out: Path) -> None:
    """Train into `out/trained`, export into `out/exported`."""
    tracker = Announcing()
    train(read(rows), out / "trained", tracker=tracker)
    settings = ExportSettings(parity_rows=1000)
    export(
        rows, out / "trained", out / "exported", settings, tracker=MemoryTracker(), lineage=LINEAGE
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
