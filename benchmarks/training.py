"""Training: batches sliced from memory against a per-row DataLoader, same network, rows, steps.

CPU seconds decide, wall time is shown: the machine may be shared. One epoch of each, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tests import flights
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples, examples, vocabularies
from tidemill.steps.fit import Loop, reproducible
from tidemill.steps.model import ProbabilityModel

ROUNDS = 3


def main() -> None:
    """Print rows per second of both loops and their ratio."""
    settings = flights.settings(batch_size=2048)
    frame = flights.training_set()
    known = vocabularies(frame, settings.inputs, settings.min_category_rows)
    rows = examples(frame, settings.inputs, known, settings.label)
    with reproducible(settings):
        sliced = _loop(settings, known, rows)
        loaded = _loop(settings, known, rows)
        times = [
            (_seconds(lambda: sliced.run(1)), _seconds(lambda: _loader_epoch(loaded)))
            for _ in range(ROUNDS)
        ]
    ours, theirs = (
        tuple(map(statistics.median, zip(*side, strict=True))) for side in zip(*times, strict=True)
    )
    print(f"{len(rows):,} rows, batches of {settings.batch_size}, {settings.threads} thread, CPU")
    for name, (cpu, wall) in (("sliced from memory", ours), ("DataLoader", theirs)):
        print(f"  {name:20} {len(rows) / cpu:>10,.0f} rows per CPU second, {wall:.2f} s wall")
    print(f"  ratio {theirs[0] / ours[0]:.1f} (CPU), {theirs[1] / ours[1]:.1f} (wall)")


def _loop(settings: TrainingSettings, known: dict[str, list[str]], rows: Examples) -> Loop:
    model = ProbabilityModel(settings, known)
    model.encoder.fit(rows.numbers)
    return Loop(model, rows, ROUNDS + 1)


def _loader_epoch(loop: Loop) -> None:
    """Run the textbook loop: rows fetched one by one, collated, encoded per batch."""
    rows, model = loop.train, loop.model
    loader = DataLoader(
        TensorDataset(rows.numbers, rows.codes, rows.labels),
        batch_size=loop.settings.batch_size,
        shuffle=True,
    )
    model.train()
    for numbers, codes, labels in loader:
        loop.optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(model.logits(numbers, codes), labels)
        loss.backward()
        loop.optimiser.step()
        loop.schedule.step()


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
