"""Warm-up: recorded requests that a model must score before its server is ready.

ONNX Runtime prepares kernels and memory with the first rows that it sees. The results are dropped:
nothing is counted or logged.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.bundle import WARM_UP
from tidemill.errors import IntegrityError
from tidemill.server.model import UNFIT, Model
from tidemill.server.protocol import Rejected, decode
from tidemill.server.validation import Validator

__all__ = ["warm_up"]


def warm_up(model: Model, folder: Path) -> None:
    """Score the requests of the bundle in `folder`; one without any is left as it is.

    Raises IntegrityError when the model does not take them: it is not the one that was recorded.
    """
    path = folder / WARM_UP
    if not path.exists():
        return
    validator = Validator(model.manifest, max_rows=2**31, max_text_length=2**31, nan_policy="allow")
    try:
        for body in msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw]):
            batch = validator.check(decode(bytes(body)), {})
            model.predict(batch.numbers, batch.texts)
    except Rejected as refusal:
        reason = refusal.message
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no other base
        reason = str(error)
    else:
        return
    raise IntegrityError(
        f"{folder}: the model does not take the requests of {WARM_UP}: {reason}", hint=UNFIT
    )
