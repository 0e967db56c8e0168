"""What a step imports, read from its code."""

from __future__ import annotations

import ast
from collections.abc import Sequence

__all__ = ["imports_of"]

AT_FIRST_USE = {
    "tidemill.wiring": ("tidemill.adapters.mlflow.tracker", "tidemill.adapters.store.engine"),
    "tidemill.steps.training_set": ("tidemill.adapters.feast",),
    "tidemill.steps.train": ("torch._dynamo",),  # the optimiser
    "tidemill.steps.export": (
        "torch.export._trace",
        "torch.onnx._internal.exporter._core",
        "onnxscript.function_libs.torch_lib.ops",
        "sympy.tensor.tensor",
    ),
}
"""What is imported when a module is first used: four CPU seconds of a training."""


def imports_of(sources: Sequence[str]) -> list[str]:
    """Return the modules that components import, from their sources, in order."""
    found: dict[str, None] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= dict.fromkeys(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= dict.fromkeys((node.module, *AT_FIRST_USE.get(node.module, ())))
    return list(found)
