"""Dropout: the same law as `nn.Dropout`."""

from __future__ import annotations

import pytest
import torch

from tidemill.steps.model import Dropout


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_it_hides_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(7)
    values = torch.full((400, 500), 3.0, requires_grad=True)
    seen = Dropout(rate)(values)
    hidden = seen == 0
    assert float(hidden.float().mean()) == pytest.approx(rate, abs=0.005)
    assert torch.allclose(seen[~hidden], torch.tensor(3 / (1 - rate)))
    seen.sum().backward()
    assert values.grad is not None
    assert torch.allclose(values.grad, seen.detach() / 3)


def test_it_hides_nothing_when_the_model_predicts() -> None:
    values = torch.randn(10)
    assert Dropout(0.5).eval()(values) is values
