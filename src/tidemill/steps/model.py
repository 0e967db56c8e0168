"""The torch model: raw columns → encoder (no learned weights) → network → calibrated probability.

The encoder is part of the exported graph, so that what is served cannot differ from what was
trained. It has no weights to learn; the network learns from encoded batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tidemill.settings.model import ModelInput, TrainingSettings
from tidemill.steps.inputs import number_columns

__all__ = ["Encoder", "Network", "ProbabilityModel"]

CLAMP = 3.0
"""Standardised values are kept within ± this: long tails are for the bins."""
NARROWEST = 1e-4
"""Bins narrower than this share of a value's range are merged: rounding must not span one."""


class Encoder(nn.Module):
    """Numeric columns → a dense matrix `[N, width]` of bounded cells.

    A value is first kept within the training rows' range, so that nothing extrapolates. It becomes
    one standardised cell, and one cell per quantile bin: 0 below the bin, 1 above it, linear inside
    (Gorishniy et al. 2022, arXiv:2203.05556). A column that is missing or not finite gives zeros,
    and 1 in a flag of its own.
    """

    plain: Tensor
    logs: Tensor
    minuend: Tensor
    subtrahend: Tensor
    cyclic: Tensor
    turns: Tensor
    lowest: Tensor
    highest: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    gain: Tensor

    def __init__(self, inputs: Sequence[ModelInput], bins: int) -> None:
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
        values = sum(len(indices[k]) for k in ("plain", "logs", "minuend"))
        for name in ("lowest", "highest", "mean"):
            self.register_buffer(name, torch.zeros(values))
        self.register_buffer("scale", torch.ones(values))
        self.register_buffer("low", torch.zeros(values, bins))
        self.register_buffer("gain", torch.zeros(values, bins))
        self.width = values * (bins + 2) + len(periods) * 3

    def fit(self, numbers: Tensor) -> None:
        """Take range, mean, deviation and bins from training rows `[N, columns]`."""
        values, present, _, _ = self._derive(numbers)
        bins = self.low.shape[1]
        share = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=numbers.device)
        for index in range(values.shape[1]):
            known = values[present[:, index] > 0, index].double()
            if not len(known):
                continue
            edges = torch.unique(torch.quantile(known, share))
            self.lowest[index], self.highest[index] = edges[0], edges[-1]
            self.mean[index] = known.mean()
            self.scale[index] = known.std(correction=0) if len(edges) > 1 else 1.0
            edges = edges[[0, *_apart(edges)]]
            used = len(edges) - 1
            self.low[index, :used] = edges[:-1].float()
            self.gain[index, :used] = (1 / edges.diff()).float()

    def forward(self, numbers: Tensor) -> Tensor:
        """Encode raw numbers `[N, columns]`, NaN for missing."""
        values, present, angle, known = self._derive(numbers)
        inside = torch.minimum(torch.maximum(values, self.lowest), self.highest)
        standard = ((inside - self.mean) / self.scale).clamp(-CLAMP, CLAMP) * present
        cells = ((inside.unsqueeze(2) - self.low) * self.gain).clamp(0, 1) * present.unsqueeze(2)
        flags = [1 - present, 1 - known]
        return torch.cat(
            [standard, cells.flatten(1), angle.sin() * known, angle.cos() * known, *flags], dim=1
        )

    def _derive(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values, their presence (0 or 1), angles, and theirs."""
        finite = numbers.abs() <= torch.finfo(torch.float32).max  # False for NaN and infinities
        clean = torch.where(finite, numbers, torch.zeros_like(numbers))
        there = finite.to(numbers.dtype)
        values = [
            _pick(clean, self.plain),
            torch.log1p(_pick(clean, self.logs).clamp(min=0)),
            _pick(clean, self.minuend) - _pick(clean, self.subtrahend),
        ]
        present = [
            _pick(there, self.plain),
            _pick(there, self.logs),
            _pick(there, self.minuend) * _pick(there, self.subtrahend),
        ]
        angle = _pick(clean, self.cyclic) * self.turns
        return (
            torch.cat(values, 1),
            torch.cat(present, 1),
            angle,
            _pick(there, self.cyclic),
        )


def _pick(rows: Tensor, columns: Tensor) -> Tensor:
    """Return columns by their index; in ONNX one node, where `rows[:, columns]` is three."""
    return rows.index_select(1, columns)


def _apart(edges: Tensor) -> list[int]:
    """Return the indices of sorted edges, after the first, that lie far enough from the last."""
    kept: list[int] = []
    floor = float(edges[-1] - edges[0]) * NARROWEST
    last = float(edges[0])
    for index, edge in enumerate(edges.tolist()):
        if index and edge - last > floor:
            kept.append(index)
            last = edge
    return kept


class Dropout(nn.Module):
    """What `nn.Dropout` does, by comparing uniform numbers.

    Its Bernoulli numbers take thrice the time on a CPU: they were a quarter of a training.
    """

    generator: torch.Generator | None = None
    """What the numbers are drawn from; None is torch's own."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        """Hide each value with probability `rate` while training, and scale up the others."""
        if not self.training:
            return values
        drawn = torch.rand(values.shape, generator=self.generator, device=values.device)
        kept = drawn >= self.rate
        return values * kept.to(values.dtype).div_(1 - self.rate)


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
            layers += [nn.Linear(wide, size), nn.ReLU(), Dropout(settings.dropout)]
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
        self.settings = settings
        self.encoder = Encoder(settings.inputs, settings.bins)
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
        return self.probability(self.logits(numbers, codes))

    def probability(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities of logits."""
        return torch.sigmoid(logits * self.slope + self.intercept)
