"""The model as every foreign server loads it; the variable MODEL names its file."""

import os

import onnxruntime as ort

INPUT, OUTPUT = "x", "probability"


def load() -> ort.InferenceSession:
    """Return a session with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
