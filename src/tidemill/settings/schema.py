"""The whole schema: one model that every layer merges into."""

from __future__ import annotations

from pydantic import Field

from tidemill.settings.base import Group
from tidemill.settings.data import DataSettings, StorageSettings
from tidemill.settings.execution import ExecutionSettings
from tidemill.settings.features import FeatureSettings
from tidemill.settings.model import (
    ExportSettings,
    GateSettings,
    RegistrySettings,
    TrainingSettings,
)
from tidemill.settings.monitoring import MonitoringSettings, RetrainingSettings
from tidemill.settings.rollout import RolloutSettings
from tidemill.settings.serving import GatewaySettings, ServingSettings

__all__ = ["Settings"]


class Settings(Group):
    """A project's settings."""

    name: str = Field(default="flight-delay", pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")
    """Project name: a DNS label of at most 40 characters."""
    data: DataSettings = DataSettings()
    """Raw data."""
    storage: StorageSettings = StorageSettings()
    """Where state is kept."""
    features: FeatureSettings = FeatureSettings()
    """Features."""
    training: TrainingSettings
    """Training."""
    export: ExportSettings = ExportSettings()
    """ONNX export."""
    gates: GateSettings = GateSettings()
    """Gates before the registry."""
    registry: RegistrySettings = RegistrySettings()
    """MLflow."""
    serving: ServingSettings = ServingSettings()
    """The inference server."""
    gateway: GatewaySettings = GatewaySettings()
    """The local gateway."""
    rollout: RolloutSettings = RolloutSettings()
    """Canary rollout."""
    monitoring: MonitoringSettings = MonitoringSettings()
    """Monitoring."""
    retraining: RetrainingSettings = RetrainingSettings()
    """Retraining."""
    execution: ExecutionSettings = ExecutionSettings()
    """Pipeline execution."""
