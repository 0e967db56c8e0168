"""The training loop: every epoch is a function of the state before it.

An epoch seeds its generator from the run's seed and its own number and begins with what the
checkpoint holds; so a run that was killed continues to the very same weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tidemill.errors import ConfigError
from tidemill.files import place
from tidemill.settings.model import TrainingSettings
from tidemill.steps.examples import Examples
from tidemill.steps.model import Dropout, ProbabilityModel
from tidemill.steps.record import Epoch
from tidemill.steps.weights import read_state, to_bytes

__all__ = ["Checkpoint", "Loop", "fit", "pick_device", "predict_logits", "reproducible"]

PREDICT_ROWS = 65536
"""Rows per forward pass outside of training: bounds the memory."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the state is kept between epochs, and which run it belongs to."""

    path: Path
    fingerprint: str
    """Digest of data and settings; the checkpoint of another run is ignored."""

    def load(self) -> dict[str, Any] | None:
        """Return the last whole state of this run, if there is one; raises DataError."""
        if not self.path.exists():
            return None
        state = read_state(self.path, again=f"rm {self.path}, tidemill model train")
        return state if state["fingerprint"] == self.fingerprint else None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state, whole or not at all; raises Unavailable."""
        place(self.path, to_bytes({**state, "fingerprint": self.fingerprint}), durable=True)


@contextmanager
def reproducible(settings: TrainingSettings) -> Iterator[torch.device]:
    """Choose device and threads and make torch deterministic, until the block ends.

    On the CPU what is used here is deterministic for a number of threads, and asking torch for more
    would import its compiler (two CPU seconds). Raises ConfigError when a GPU is demanded and there
    is none.
    """
    device, threads = pick_device(settings.device), torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(), _strict(device):
            torch.manual_seed(settings.seed)
            yield device
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _strict(device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def pick_device(wanted: str) -> torch.device:
    """Return the device that `training.device` means on this machine; raises ConfigError."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("training.device is cuda, and torch sees no GPU here", hint="use auto")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def fit(
    model: ProbabilityModel,
    train: Examples,
    validation: Examples,
    checkpoint: Checkpoint,
    on_epoch: Callable[[Epoch], None],
) -> tuple[tuple[Epoch, ...], int]:
    """Train until the validation loss stops falling; return the epochs and the best one's number.

    The model ends with the weights of the best epoch.
    """
    settings = model.settings
    loop = Loop(model, train, settings.epochs)
    epochs: list[Epoch] = []
    best: dict[str, Any] = {"weights": {}, "number": 0, "loss": math.inf}
    state = checkpoint.load()
    if state:
        loop.restore(state["loop"])
        epochs, best = [Epoch(**body) for body in state["epochs"]], state["best"]
    while len(epochs) < settings.epochs and len(epochs) - best["number"] < settings.patience:
        number = len(epochs) + 1
        train_loss = loop.run(number)
        outputs = predict_logits(model, validation)
        loss = float(binary_cross_entropy_with_logits(outputs, validation.labels))
        epochs.append(Epoch(number=number, train_loss=train_loss, validation_loss=loss))
        if loss < best["loss"]:
            weights = {name: value.clone() for name, value in model.network.state_dict().items()}
            best = {"weights": weights, "number": number, "loss": loss}
        history = [epoch.model_dump() for epoch in epochs]
        on_epoch(epochs[-1])  # first: what was not recorded is not kept, and is learned again
        checkpoint.save({"loop": loop.state(), "epochs": history, "best": best})
    model.network.load_state_dict(best["weights"])
    return tuple(epochs), int(best["number"])


def predict_logits(model: ProbabilityModel, rows: Examples) -> Tensor:
    """Return uncalibrated logits `[N]`, without dropout."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model.logits(rows.numbers[i : i + PREDICT_ROWS], rows.codes[i : i + PREDICT_ROWS])
            for i in range(0, len(rows), PREDICT_ROWS)
        ]
        return torch.cat(parts)


class Loop:
    """Network, optimiser and learning-rate schedule of one run of `epochs` epochs."""

    def __init__(self, model: ProbabilityModel, train: Examples, epochs: int) -> None:
        self.model = model
        self.train = train
        self.settings = settings = model.settings
        self.generator = torch.Generator(train.labels.device)
        """Its own, so that loops can run side by side."""
        for layer in model.network.modules():
            if isinstance(layer, Dropout):
                layer.generator = self.generator
        self.optimiser = torch.optim.AdamW(
            model.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        steps = math.ceil(len(train) / settings.batch_size) * epochs
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.learning_rate, total_steps=steps
        )

    def run(self, number: int) -> float:
        """Run epoch `number` and return its mean loss per row."""
        self.generator.manual_seed(self.settings.seed + number)
        self.model.train()
        device = self.train.labels.device
        order = torch.randperm(len(self.train), generator=self.generator, device=device)
        rows = self.train.take(order).hide(self.settings.hidden_cells, self.generator)
        total = torch.zeros((), device=device)
        for start in range(0, len(rows), self.settings.batch_size):
            part = slice(start, start + self.settings.batch_size)
            with torch.no_grad():  # by batch: all rows at once are memory that no cache holds
                dense = self.model.encoder(rows.numbers[part])
            total += self._step(dense, rows.codes[part], rows.labels[part])
        return float(total) / len(rows)

    def _step(self, dense: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        """Take one optimiser step and return the batch's summed loss."""
        self.optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=dense.is_cuda):
            output = self.model.network(dense, codes)
        loss = binary_cross_entropy_with_logits(output.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        return loss.detach() * len(labels)

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch begins with."""
        return {
            "network": self.model.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
