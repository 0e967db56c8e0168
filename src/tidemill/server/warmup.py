"""What a model must do before its server is ready: take recorded requests, score golden rows.

ONNX Runtime prepares kernels and memory with the first rows that it sees. A model that loads and
scores may still be another one than was judged, or score otherwise on this machine; golden rows are
rows whose scores are known. Nothing of this is counted or logged.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from tidemill.bundle import GOLDEN, WARM_UP, read, read_golden
from tidemill.errors import IntegrityError
from tidemill.server.model import UNFIT, Model
from tidemill.server.protocol import Rejected, decode
from tidemill.server.validation import Validator

__all__ = ["warm_up"]

log = structlog.get_logger(__name__)


def warm_up(model: Model, folder: Path) -> None:
    """Score the requests and the golden rows of the bundle in `folder`; older ones lack either.

    Raises IntegrityError when the model does not take them, or gives a golden row another score:
    it is not the one that was recorded. Raises Unavailable when they cannot be read.
    """
    content = read(folder, WARM_UP)
    try:
        recorded = msgspec.json.decode(
            b"[]" if content is None else content, type=list[msgspec.Raw]
        )
    except msgspec.DecodeError as error:
        raise _unfit(folder, WARM_UP, str(error)) from error
    for body in recorded:
        _score(model, folder, WARM_UP, bytes(body))
    _check_golden(model, folder)


def _check_golden(model: Model, folder: Path) -> None:
    golden = read_golden(folder)
    if golden is None:
        log.warning("no golden rows: nobody knows what it should score", bundle=str(folder))
        return
    scores = _score(model, folder, GOLDEN, json.dumps(golden.request).encode())
    if deviation := golden.deviation(scores.tolist()):
        raise IntegrityError(
            f"{folder}: the model does not score as it did: {deviation}", hint=UNFIT
        )


def _score(model: Model, folder: Path, name: str, body: bytes) -> NDArray[np.float32]:
    """Score a request of the bundle's file `name` as a client's; raises IntegrityError."""
    validator = Validator(model.manifest, max_rows=2**31, max_text_length=2**31, nan_policy="allow")
    try:
        batch = validator.check(decode(body), {})
        return model.predict(batch.numbers, batch.texts)
    except Rejected as refusal:
        raise _unfit(folder, name, refusal.message) from refusal
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise _unfit(folder, name, str(error)) from error


def _unfit(folder: Path, name: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{folder}: the model does not take the requests of {name}: {reason}", hint=UNFIT
    )
