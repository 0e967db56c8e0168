"""What a step imports, read from its code."""

from __future__ import annotations

import ast

__all__ = ["imports_of"]

AT_FIRST_USE = {
    "tidemill.wiring": ("tidemill.adapters.mlflow.tracker", "tidemill.adapters.store.engine"),
    "tidemill.steps.train": ("torch._dynamo",),  # the optimiser
    "tidemill.steps.export": (
        "torch.export._trace",
        "torch.onnx._internal.exporter._core",
        "onnxscript.function_libs.torch_lib.ops",
        "sympy.tensor.tensor",
    ),
}
"""What is imported when a module is first used: three CPU seconds of a training. Feast is not here:
one step needs it, and imports it while torch is imported for those behind."""


def imports_of(source: str) -> list[str]:
    """Return the modules that a component imports, from its code, in order."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= dict.fromkeys((node.module, *AT_FIRST_USE.get(node.module, ())))
    return list(found)
