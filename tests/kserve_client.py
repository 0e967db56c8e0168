"""KServe's clients against a server; run by a Python that has the package `kserve`, not by ours.

`python tests/kserve_client.py HTTP_URL GRPC_ADDRESS MODEL ROW` prints one JSON document of what
they got; ROW is a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from httpx import HTTPStatusError
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

ROWS = 3


def asked(model: str, row: dict[str, Any], *, binary: bool) -> Any:
    inputs = []
    for name, value in row.items():
        text = isinstance(value, str)
        given = InferInput(name, [ROWS], "BYTES" if text else "FP32")
        values = np.full(ROWS, value, np.object_ if text else np.float32)
        given.set_data_from_numpy(values, binary_data=binary)
        inputs.append(given)
    return InferRequest(model, inputs, request_id="mine")


def told(answer: Any) -> dict[str, Any]:
    return {
        "id": answer.id,
        "scores": answer.outputs[0].as_numpy().ravel().tolist(),
    }


async def main(url: str, address: str, model: str, row: dict[str, Any]) -> dict[str, Any]:
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    grpc = InferenceGRPCClient(address)
    found: dict[str, Any] = {
        "REST ready": await rest.is_server_ready(url) and await rest.is_model_ready(url, model),
        "REST live": await rest.is_server_live(url),
        "gRPC ready": await grpc.is_server_ready() and await grpc.is_model_ready(model),
        "gRPC live": await grpc.is_server_live(),
    }
    for binary in (False, True):
        form = "binary" if binary else "plain"
        request = asked(model, row, binary=binary)
        found[f"REST {form}"] = told(await rest.infer(url, request, model_name=model))
        found[f"gRPC {form}"] = told(await grpc.infer(asked(model, row, binary=binary)))
    try:
        await rest.infer(url, asked(model, {"nonsense": 1.0}, binary=False), model_name=model)
    except HTTPStatusError as error:
        found["refused"] = str(error)
    await rest.close()
    await grpc.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:4], json.loads(sys.argv[4])))))
