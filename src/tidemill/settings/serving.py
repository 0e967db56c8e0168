"""Serving: the model servers, their prediction log, the gateway in front of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tidemill.settings.base import Group

__all__ = ["GatewaySettings", "PredictionLogSettings", "ServingSettings"]


class PredictionLogSettings(Group):
    """What the server keeps of every prediction."""

    sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged."""
    buffer_rows: int = Field(default=20000, ge=1)
    """Rows held in memory; above it rows are dropped and counted, inference never waits."""
    flush_rows: int = Field(default=5000, ge=1)
    """A Parquet file is written after this many rows …"""
    flush_seconds: float = Field(default=5.0, gt=0)
    """… or this many seconds, whichever is first. A crash loses at most one interval."""


class ServingSettings(Group):
    """The inference server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    row_id: str = "flight_id"
    """Optional request column that identifies a row: it joins predictions with labels."""
    max_body_bytes: int = Field(default=8_388_608, ge=1024)
    """Larger request bodies are refused with 413."""
    max_rows: int = Field(default=4096, ge=1)
    """More rows in one request are refused with 400."""
    nan_policy: Literal["allow", "reject"] = "allow"
    """`allow`: NaN in a numeric column means missing, the graph imputes it. `reject`: 400."""
    lookup_deadline_ms: float = Field(default=50.0, gt=0)
    """Online features that do not arrive in time become defaults, marked and counted."""
    intra_op_threads: int = Field(default=1, ge=1)
    """Threads of ONNX Runtime per inference."""
    keep_alive_seconds: int = Field(default=75, ge=1)
    """An idle connection is closed after this long: later than the gateway would close it, so that
    no request meets a connection that is just being closed."""
    notice_seconds: float = Field(default=1.0, ge=0)
    """After SIGTERM the server is not ready but still accepts for this long: the gateway's probes
    see it before connections are refused."""
    drain_seconds: int = Field(default=10, ge=1)
    """After that, requests in flight get this long, and the prediction log as long again."""
    slow_ms: float = Field(default=250.0, gt=0)
    """A slower request is a 'slow' event for the rollout's analysis: the SLO."""
    verify: bool = True
    """Verify signature and digest of a bundle before loading; off is for development only."""
    log: PredictionLogSettings = PredictionLogSettings()
    """The prediction log."""


class GatewaySettings(Group):
    """Envoy, the local gateway."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that clients call."""
    admin_port: int = Field(default=9901, ge=1, le=65535)
    """Envoy's admin port, on loopback."""
    server_ports: tuple[int, int] = (8100, 8199)
    """Range from which model servers take their ports."""
