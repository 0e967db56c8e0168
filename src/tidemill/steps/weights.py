"""What torch keeps between two processes: weights, and the state of a training."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tidemill.steps.formats import readable

__all__ = ["read_state", "to_bytes"]


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state as torch writes it.

    In memory, because torch says of a full disk only where in its own source it met it.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def read_state(path: Path, *, again: str) -> dict[str, Any]:
    """Read a state to the CPU; raises DataError as `steps.formats.readable` does."""
    with readable(path, RuntimeError, pickle.UnpicklingError, again=again):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
