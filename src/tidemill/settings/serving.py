"""Serving: the model servers, their prediction log, the gateway in front of them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tidemill.settings.base import Group, Secret

__all__ = [
    "AuthSettings",
    "GatewaySettings",
    "LimitSettings",
    "PredictionLogSettings",
    "ServingSettings",
    "TlsSettings",
]


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


class AuthSettings(Group):
    """Who may call the server."""

    key_file: str = ""
    """YAML file of API keys (`tidemill serve key new` prints its entries), relative to the project;
    read again when it changes. Empty: no authentication."""
    allow_anonymous: bool = False
    """Without keys and without client certificates the server refuses to listen beyond loopback,
    unless this says that everyone who reaches the port may call it."""
    controller_key: Secret = ""
    """Reference to a key with `infer` (and `admin` unless `open_metrics`): the rollout's controller
    rehearses a canary with it before the canary gets a client's request."""
    open_metrics: bool = True
    """`/metrics` needs no key: Prometheus and the rollout's controller scrape it, and it holds
    counts, no data. False: it needs a key with the permission `admin`."""


class LimitSettings(Group):
    """What a client can take of the server."""

    max_in_flight: int = Field(default=64, ge=1)
    """Requests that are answered at once; more wait. A few per thread that reads the online store:
    with many more their lookups would wait there, and miss `lookup_deadline_ms`."""
    max_waiting: int = Field(default=1024, ge=0)
    """Requests that wait or are still arriving; more are refused with 503. At some 2,000 requests/s
    a full queue is half a second."""
    max_head_bytes: int = Field(default=32_768, ge=1024)
    """A larger request line with headers is refused with 431."""
    head_seconds: float = Field(default=10.0, gt=0)
    """A request line with headers that takes longer to arrive is refused with 408."""
    body_seconds: float = Field(default=30.0, gt=0)
    """A body that takes longer to arrive is refused with 408: 8 MiB at 2.2 Mbit/s."""


class TlsSettings(Group):
    """TLS 1.2 or newer, by the server itself; files are PEM, relative to the project."""

    cert: str = ""
    """Certificate chain, read again when it changes. Empty: plain HTTP."""
    key: str = ""
    """Its private key, without a passphrase."""
    client_ca: str = ""
    """Certificates that sign clients: only clients with such a certificate can connect (mTLS)."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key belong together: give both or neither")
        if self.client_ca and not self.cert:
            raise ValueError("client_ca without cert and key: clients are checked over TLS only")
        return self


class ServingSettings(Group):
    """The inference server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the gRPC endpoint, 0 takes a free one. None: no endpoint, as its library takes memory
    and start-up time that HTTP's callers would pay for."""
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
    max_models: int = Field(default=8, ge=1)
    """Models of a repository that are loaded at once; another takes the place of the least recently
    used. Each keeps its graph, a prediction log and threads for lookups: some 10 MB and up."""
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
    auth: AuthSettings = AuthSettings()
    """Authentication."""
    limits: LimitSettings = LimitSettings()
    """Limits per process."""
    tls: TlsSettings = TlsSettings()
    """Transport security."""
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
