"""The torch model: raw columns → encoder (no learned weights) → network → calibrated probability.

The encoder is part of the exported graph, so that what is served cannot differ from what was
trained. It is applied once before training; the network then learns from encoded batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tidemill.settings.model import ModelInput, TrainingSettings
from tidemill.steps.inputs import number_columns

__all__ = ["Encoder", "Network", "ProbabilityModel"]

CLAMP = 8.0
"""Standardised values are kept within ± this, so that one absurd value cannot decide a score."""


class Encoder(nn.Module):
    """Numeric columns → a dense matrix `[N, width]`: standardised values, then one flag per value.

    A value that is missing or not finite becomes the mean (0 after standardising), its flag 1.
    """

    plain: Tensor
    logs: Tensor
    minuend: Tensor
    subtrahend: Tensor
    cyclic: Tensor
    turns: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: Sequence[ModelInput]) -> None:
        super().__init__()
        position = {name: index for index, name in enumerate(number_columns(inputs))}
        by = {k: [i for i in inputs if i.encoding == k] for k in ("numeric", "log", "cyclic")}
        differences = [(i.name, i.minus) for i in inputs if i.minus]
        indices = {
            "plain": [position[i.name] for i in by["numeric"]],
            "logs": [position[i.name] for i in by["log"]],
            "cyclic": [position[i.name] for i in by["cyclic"]],
            "minuend": [position[a] for a, _ in differences],
            "subtrahend": [position[b] for _, b in differences],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.tensor(index, dtype=torch.int64))
        periods = [2 * math.pi / (i.period or 1.0) for i in by["cyclic"]]
        self.register_buffer("turns", torch.tensor(periods, dtype=torch.float32))
        self.values = sum(len(indices[k]) for k in ("plain", "logs", "minuend"))
        self.register_buffer("mean", torch.zeros(self.values))
        self.register_buffer("scale", torch.ones(self.values))
        self.flags = self.values + len(indices["cyclic"])
        self.width = self.flags + len(indices["cyclic"]) + self.flags

    def fit(self, numbers: Tensor) -> None:
        """Take mean and standard deviation from training rows `[N, columns]`."""
        values, present, _, _ = self._derive(numbers)
        count = present.sum(0).clamp(min=1)
        exact = values.double()
        mean = (exact * present).sum(0) / count
        variance = (((exact - mean) ** 2) * present).sum(0) / count
        scale = variance.sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))

    def forward(self, numbers: Tensor) -> Tensor:
        """Encode raw numbers `[N, columns]`, NaN for missing."""
        values, present, angle, known = self._derive(numbers)
        standard = ((values - self.mean) / self.scale).clamp(-CLAMP, CLAMP) * present
        return torch.cat(
            [standard, angle.sin() * known, angle.cos() * known, 1 - present, 1 - known], dim=1
        )

    def _derive(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values, their presence (0 or 1), angles, and theirs."""
        finite = numbers.abs() <= torch.finfo(torch.float32).max  # False for NaN and infinities
        clean = torch.where(finite, numbers, torch.zeros_like(numbers))
        there = finite.to(numbers.dtype)
        values = [
            clean[:, self.plain],
            torch.log1p(clean[:, self.logs].clamp(min=0)),
            clean[:, self.minuend] - clean[:, self.subtrahend],
        ]
        present = [
            there[:, self.plain],
            there[:, self.logs],
            there[:, self.minuend] * there[:, self.subtrahend],
        ]
        angle = clean[:, self.cyclic] * self.turns
        return torch.cat(values, 1), torch.cat(present, 1), angle, there[:, self.cyclic]


class Network(nn.Module):
    """Encoded numbers and category codes → logit `[N]`: embeddings, then a perceptron."""

    def __init__(self, width: int, categories: Sequence[int], settings: TrainingSettings) -> None:
        super().__init__()
        sizes = [min(settings.embedding, 1 + count // 2) for count in categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(count + 1, size) for count, size in zip(categories, sizes, strict=True)
        )
        layers: list[nn.Module] = []
        wide = width + sum(sizes)
        for size in settings.hidden:
            layers += [nn.Linear(wide, size), nn.ReLU(), nn.Dropout(settings.dropout)]
            wide = size
        self.layers = nn.Sequential(*layers, nn.Linear(wide, 1))

    def forward(self, dense: Tensor, codes: Tensor) -> Tensor:
        """Return logits `[N]` of encoded numbers `[N, width]` and codes `[N, categories]`."""
        parts = [dense] + [e(codes[:, i]) for i, e in enumerate(self.embeddings)]
        logits: Tensor = self.layers(torch.cat(parts, dim=1))
        return logits.squeeze(1)


class ProbabilityModel(nn.Module):
    """The whole: what is exported."""

    slope: Tensor
    intercept: Tensor

    def __init__(self, settings: TrainingSettings, vocabulary: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.encoder = Encoder(settings.inputs)
        counts = [len(known) for known in vocabulary.values()]
        self.network = Network(self.encoder.width, counts, settings)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("intercept", torch.zeros(()))

    def logits(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Return uncalibrated logits `[N]` of raw numbers and codes."""
        logits: Tensor = self.network(self.encoder(numbers), codes)
        return logits

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Return probabilities `[N]` of raw numbers `[N, columns]` and codes `[N, categories]`."""
        return torch.sigmoid(self.logits(numbers, codes) * self.slope + self.intercept)
