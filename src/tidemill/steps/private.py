"""What the data contract's tag `pii` means for a model."""

from __future__ import annotations

from collections.abc import Mapping

from tidemill.bundle import Manifest
from tidemill.errors import ConfigError

__all__ = ["private_columns"]


def private_columns(tagged: Mapping[str, str], manifest: Manifest) -> dict[str, str]:
    """Return the tagged columns that the prediction log would hold, and what it may keep of them.

    Raises ConfigError when that cannot be done: the row id joins predictions with labels, so it
    must be logged as it is; the log keeps numeric inputs as numbers, so none is hashed.
    """
    if manifest.row_id in tagged:
        raise ConfigError(
            f"the contract tags '{manifest.row_id}' as pii, and serving.row_id names it: "
            "predictions are joined with labels by this column, in the clear",
            hint="name a column in serving.row_id that says nothing about a person",
        )
    types = dict.fromkeys(manifest.entities, "BYTES")
    types |= {column.name: column.datatype for column in manifest.inputs}
    for name, treatment in tagged.items():
        if treatment == "hash" and types.get(name) == "FP32":
            raise ConfigError(
                f"the contract has '{name}' hashed in the log, but the model reads it as a number",
                hint="choose 'log: mask' or 'log: drop' in the contract",
            )
    return {name: treatment for name, treatment in tagged.items() if name in types}
