"""KServe's Python server with a custom model; its options come from the command line."""

import scorer
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Mlp(Model):
    """The model."""

    def __init__(self) -> None:
        super().__init__("mlp")
        self._session = scorer.load()
        self.ready = True

    def predict(self, payload: InferRequest, *_: object) -> InferResponse:
        """Score the rows, on the event loop: a hop to a thread would cost more than the model."""
        rows = payload.inputs[0].as_numpy()
        (scores,) = self._session.run([scorer.OUTPUT], {scorer.INPUT: rows})
        output = InferOutput(scorer.OUTPUT, list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id or generate_uuid(),
            self.name,
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    ModelServer().start([Mlp()])
