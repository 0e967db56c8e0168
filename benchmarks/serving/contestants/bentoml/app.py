"""A BentoML service that takes the V2 body, with pydantic models as its documentation has them."""

import bentoml
import numpy as np
import scorer
from pydantic import BaseModel


class Tensor(BaseModel):
    """A V2 tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Response(BaseModel):
    """A V2 response."""

    model_name: str
    outputs: list[Tensor]


@bentoml.service(
    workers=1,
    threads=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Mlp:
    """The model."""

    def __init__(self) -> None:
        self._session = scorer.load()

    @bentoml.api(route="/v2/models/mlp/infer")
    async def infer(self, inputs: list[Tensor]) -> Response:
        """Score the rows."""
        tensor = inputs[0]
        rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
        scores = self._session.run([scorer.OUTPUT], {scorer.INPUT: rows})[0].tolist()
        output = Tensor(name=scorer.OUTPUT, shape=[len(scores)], datatype="FP32", data=scores)
        return Response(model_name="mlp", outputs=[output])
