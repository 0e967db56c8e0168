"""What NVIDIA's `tritonclient` sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.shadowed import Connect
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

__all__ = ["ROWS", "columns", "over_grpc"]

ROWS = 3


def columns(
    client: ModuleType,
    row: dict[str, Any],
    rows: int = ROWS,
    number: type = np.float32,
    **sent: bool,
) -> list[Any]:
    """Return an input for each column; `client` is the module of HTTP or of gRPC."""
    made = []
    for name, value in row.items():
        values = np.full((rows,), value, dtype=np.object_ if isinstance(value, str) else number)
        tensor = client.InferInput(name, [rows], np_to_triton_dtype(values.dtype))
        made.append(tensor.set_data_from_numpy(values, **sent))
    return made


def over_grpc(target: str, model: str) -> Connect:
    """Ask by ModelInfer, each client on a channel of its own."""

    @contextmanager
    def connect() -> Iterator[Callable[[dict[str, Any]], str]]:
        with triton.InferenceServerClient(target) as client:

            def ask(row: dict[str, Any]) -> str:
                try:
                    answer = client.infer(model, columns(triton, row, 1), client_timeout=10)
                except InferenceServerException as error:
                    print(f"failed: {error}")
                    return "failed"
                return str(answer.get_response().model_version)

            yield ask

    return connect
