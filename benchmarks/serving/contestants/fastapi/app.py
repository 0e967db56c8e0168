"""FastAPI as people write it: pydantic models in and out, the model in an async endpoint."""

import numpy as np
import scorer
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """A V2 tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    """A V2 request."""

    inputs: list[Tensor]


class Response(BaseModel):
    """A V2 response."""

    model_name: str
    outputs: list[Tensor]


app = FastAPI()
session = scorer.load()


@app.get("/v2/models/mlp/ready")
async def ready() -> dict[str, bool]:
    """Say that the model is loaded."""
    return {"ready": True}


@app.post("/v2/models/mlp/infer")
async def infer(request: Request) -> Response:
    """Score the rows."""
    tensor = request.inputs[0]
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    scores = session.run([scorer.OUTPUT], {scorer.INPUT: rows})[0].tolist()
    output = Tensor(name=scorer.OUTPUT, shape=[len(scores)], datatype="FP32", data=scores)
    return Response(model_name="mlp", outputs=[output])
