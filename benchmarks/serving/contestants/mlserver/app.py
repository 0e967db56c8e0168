"""MLServer's custom runtime: its documented numpy codec, and the model."""

import scorer
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Mlp(MLModel):
    """The model."""

    async def load(self) -> bool:
        """Load it."""
        self._session = scorer.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the rows."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        (scores,) = self._session.run([scorer.OUTPUT], {scorer.INPUT: rows})
        output = NumpyCodec.encode_output(scorer.OUTPUT, scores)
        return InferenceResponse(model_name=self.name, outputs=[output])
