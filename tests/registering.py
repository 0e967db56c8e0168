"""A model version, registered as a pipeline does whose gates passed."""

from __future__ import annotations

from pathlib import Path

from tidemill.ports.registry import ModelVersion
from tidemill.steps.register import register
from tidemill.wiring import Project

__all__ = ["registered"]


def registered(project: Project, bundle: Path, correlation: str) -> ModelVersion:
    """Sign a bundle with the project's key and register it at the project's MLflow."""
    return register(
        bundle,
        signer=project.signer,
        registry=project.registry,
        aliases=project.registry,
        ledger=project.ledger,
        clock=project.clock,
        run_id="",
        who="pipeline",
        why="gates passed",
        correlation=correlation,
    )
