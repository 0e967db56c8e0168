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
    host: str
    """Whom the tool calls without the switch."""
    why: str


SWITCHES: tuple[Switch, ...] = (
    Switch(
        "MLFLOW_DISABLE_TELEMETRY",
        "true",
        "MLflow",
        "config.mlflow-telemetry.io",
        "posts events of the SDK, the server and its pages",
    ),
    Switch(
        "DVC_NO_ANALYTICS",
        "1",
        "DVC",
        "analytics.dvc.org",
        "posts every command, from a process that outlives it",
    ),
    Switch(
        "DO_NOT_TRACK",
        "true",
        "Evidently, MLflow",
        "35.232.253.5:8000",
        "Evidently's service posts events; MLflow heeds the value `true` alone",
    ),
    Switch(
        "ITERATIVE_DO_NOT_TRACK",
        "1",
        "iterative-telemetry, in DVC and Evidently",
        "iterative-telemetry.herokuapp.com",
        "the reporting library of both, which knows only its own variable",
    ),
    Switch(
        "ORT_DISABLE_TELEMETRY",
        "1",
        "ONNX Runtime",
        "mobile.events.data.microsoft.com",
        "since 1.29 on Linux too: an uploader in native code and a device id in the user's cache",
    ),
)


def switch_off() -> None:
    """Set every switch in this process; its children inherit them."""
    for switch in SWITCHES:
        os.environ[switch.variable] = switch.value
