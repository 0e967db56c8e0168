"""Usage reporting of the tools inside, switched off: the one place and the one table.

Several of them report usage by default and read their switch when first imported, so
`import tidemill` sets all of these before anything else can be imported. A value that is already
in the environment is overridden: tidemill's processes do not phone home.
"""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["SWITCHES", "Switch", "switch_off"]


class Switch(NamedTuple):
    """One environment variable that stops one tool from reporting."""

    variable: str
    value: str
    tool: str
    why: str


SWITCHES: tuple[Switch, ...] = (
    Switch("MLFLOW_DISABLE_TELEMETRY", "true", "MLflow", "posts events of client and server calls"),
    Switch("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false", "MLflow", "stops eight idle workers"),
    Switch("DVC_NO_ANALYTICS", "1", "DVC", "posts every command after it ran"),
    Switch("FEAST_USAGE", "False", "Feast", "posted usage of the SDK; kept off for every version"),
    Switch("DO_NOT_TRACK", "1", "Evidently, others", "the UI service writes a user id and posts"),
    Switch("ORT_DISABLE_TELEMETRY", "1", "ONNX Runtime", "reports since 1.29 on Linux too"),
    Switch("SCARF_NO_ANALYTICS", "true", "packages using Scarf", "post on install and import"),
    Switch("HF_HUB_OFFLINE", "1", "Hugging Face hub", "a dependency; looks for models"),
    Switch("HF_HUB_DISABLE_TELEMETRY", "1", "Hugging Face hub", "posts usage of the client"),
)


def switch_off() -> None:
    """Set every switch in this process; its children inherit them."""
    for switch in SWITCHES:
        os.environ[switch.variable] = switch.value
