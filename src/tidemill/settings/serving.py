"""Serving: the model servers, their prediction log, the gateway in front of them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tidemill.settings.base import Group, Secret

__all__ = [
    "AccessLogSettings",
    "AuthSettings",
    "GatewaySettings",
    "JwtSettings",
    "KeepRule",
    "LimitSettings",
    "PredictionLogSettings",
    "ServingSettings",
    "TlsSettings",
    "TraceSettings",
]


KeepRule = Literal["slow", "invalid", "defaulted"]


class PredictionLogSettings(Group):
    """What the server keeps of every prediction."""

    sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged, chosen by a hash of their id."""
    keep: list[KeepRule] = Field(default_factory=list)
    """Requests that are logged beside that share: `slow` above `slow_ms`, `invalid` with a score
    that is no probability, `defaulted` with a feature that fell back. Monitoring and rollout leave
    them out (`sampled` is false)."""
    hash_key: Secret = ""
    """Reference to the key of the hashes that stand for columns tagged `pii` with `log: hash`, 16
    bytes or more: without it who knows all possible values could find out which one it was."""
    buffer_rows: int = Field(default=20000, ge=1)
    """Rows held in memory; above it rows are dropped and counted, inference never waits."""
    flush_rows: int = Field(default=5000, ge=1)
    """A Parquet file is written after this many rows …"""
    flush_seconds: float = Field(default=5.0, gt=0)
    """… or this many seconds, whichever is first. A crash loses at most one interval."""


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""Asymmetric ones alone: `none` and HMAC cannot be chosen."""


class JwtSettings(Group):
    """JSON Web Tokens of an identity provider."""

    jwks: str = ""
    """Its public keys, a JSON Web Key Set: an https address (`jwks_uri` in the issuer's metadata)
    or a file, relative to the project. Empty: no tokens."""
    audience: str = ""
    """What a token's `aud` must hold: this server's name at the issuer. Without it a token that was
    made for another service would open this one."""
    issuer: str = ""
    """What a token's `iss` must be; empty: whoever signs with one of the keys."""
    algorithms: list[Algorithm] = Field(default=["RS256", "ES256", "EdDSA"], min_length=1)
    """What tokens may be signed with."""
    claim: str = Field(default="scope", min_length=1)
    """Claim that holds the permissions: words in a string (RFC 8693) or a list of strings."""
    infer_scope: str = Field(default="infer", pattern=r"^[!#-\[\]-~]+$")
    """Word in it that permits inference and metadata."""
    admin_scope: str = Field(default="admin", pattern=r"^[!#-\[\]-~]+$")
    """Word in it that permits what needs `admin`; neither includes the other."""
    leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    """How far the issuer's clock and this machine's may differ."""
    refresh_seconds: float = Field(default=600.0, ge=1)
    """An address is read again after this long, and within seconds when a token names a key that is
    not known; a file once a second. A key that the issuer withdrew opens until then."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if "://" in self.jwks and not self.jwks.startswith("https://"):
            raise ValueError("jwks must be an https address or a file: others can be forged")
        if bool(self.jwks) != bool(self.audience):
            raise ValueError("jwks and audience belong together: give both or neither")
        if self.infer_scope == self.admin_scope:
            raise ValueError("infer_scope and admin_scope must differ")
        return self


class AuthSettings(Group):
    """Who may call the server."""

    key_file: str = ""
    """YAML file of API keys (`tidemill serve key new` prints its entries), relative to the project;
    read again when it changes. Empty: no keys."""
    jwt: JwtSettings = JwtSettings()
    """Tokens, beside keys or in their place."""
    allow_anonymous: bool = False
    """Without keys, tokens and client certificates the server refuses to listen beyond loopback,
    unless this says that everyone who reaches the port may call it."""
    controller_key: Secret = ""
    """Reference to a key with `infer`, and with `admin` for shadow steps and unless `open_metrics`:
    the rollout's controller rehearses a canary with it before the canary gets a client's request,
    and reads metrics and what was answered to mirrored requests."""
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
    max_connections: int = Field(default=4096, ge=1)
    """Connections that are held at once, silent ones too, and as many over gRPC: one more is closed
    without a word, of HTTP over TLS after its handshake. Each takes a file descriptor, and needs no
    key."""
    max_head_bytes: int = Field(default=32_768, ge=1024)
    """A larger request line with headers is refused with 431."""
    max_text_length: int = Field(default=1024, ge=1)
    """Characters of one BYTES element, key or row id; a longer one is refused with 400. It bounds
    what a row takes in the prediction log's buffer, which counts rows."""
    head_seconds: float = Field(default=10.0, gt=0)
    """A request line with headers that takes longer to arrive is refused with 408."""
    body_seconds: float = Field(default=30.0, gt=0)
    """A body that takes longer to arrive is refused with 408: 8 MiB at 2.2 Mbit/s."""
    request_seconds: float = Field(default=25.0, gt=0)
    """A request to a model that is not answered so long after it arrived, in whatever it waits, is
    refused with 504: sooner than the local gateway gives up, which says no reason. A call of the
    model that runs is not broken off, and orders to load and unload have no limit."""


class TlsSettings(Group):
    """TLS 1.2 or newer, by the server itself; files are PEM, relative to the project."""

    cert: str = ""
    """Certificate chain, read again when it changes. Empty: plain HTTP."""
    key: str = ""
    """Its private key, without a passphrase."""
    client_ca: str = ""
    """Certificates that sign clients: only clients with such a certificate can connect (mTLS).
    Read again when it changes; who is connected stays."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key belong together: give both or neither")
        if self.client_ca and not self.cert:
            raise ValueError("client_ca without cert and key: clients are checked over TLS only")
        return self


class TraceSettings(Group):
    """OpenTelemetry traces of inference requests, exported over OTLP/HTTP."""

    endpoint: str = ""
    """URL of the collector, as in http://127.0.0.1:4318/v1/traces. Empty: no traces."""
    ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of requests that are traced where the caller has not decided: a traced one costs about
    as much CPU again as a small model. A `traceparent` with its sampled flag decides by itself."""
    queue_spans: int = Field(default=4096, ge=1)
    """Ended spans that wait for the collector; above it they are dropped and counted."""
    flush_seconds: float = Field(default=2.0, gt=0)
    """Longest time that a span waits for its batch."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """For one batch, with its retries. The end of the process waits as long for the last."""


class AccessLogSettings(Group):
    """A line per answered request on standard error; never a value of a request."""

    sample: float = Field(default=0.0, ge=0, le=1)
    """Share of requests that get a line; 0: none but those of `always_from`."""
    always_from: int | None = Field(default=None, ge=400, le=599)
    """Answers with this status or a higher one always get a line: 500 for the server's failures,
    400 for all refusals. None: as sampled."""

    @property
    def on(self) -> bool:
        """Whether there can be a line at all."""
        return self.sample > 0 or self.always_from is not None


class ServingSettings(Group):
    """The inference server."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer on the same port, at most one per core: each scores on one core and
    keeps models, connections and limits of its own. 1: no further process."""
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
    """`allow`: NaN in a numeric column means missing, the graph imputes it. `reject`: 400;
    a feature that is looked up in vain and has no default is then a failure, see `fallback`."""
    lookup_deadline_ms: float = Field(default=50.0, gt=0)
    """Online features that do not arrive in time become defaults, marked and counted."""
    lookup_failures: int = Field(default=5, ge=1)
    """After so many failed look-ups in a row, which may have been one read, the online store is
    left alone: each costs its request the deadline, and a store that restarts is hit by all."""
    lookup_pause_seconds: float = Field(default=0.5, gt=0)
    """Then one request tries it again after this long, at least the deadline; the pause doubles up
    to 30 s while it fails."""
    max_store_age_seconds: float = Field(default=0.0, ge=0)
    """Answers from an online store whose newest materialisation is older are marked `stale` and
    counted. 0: no limit, as each view's ttl already limits its values."""
    fallback: tuple[Literal["previous", "prior"], ...] = ("previous", "prior")
    """What answers when a model fails, tried in this order, marked and counted: the next older
    version that is loaded; the share of the event in training. Empty: 500. The version that failed
    counts an error either way."""
    max_batch_rows: int = Field(default=256, ge=0)
    """Requests that arrive in one turn of the event loop are scored in one call of up to so many
    rows: a call costs a small model more than its rows, and one alone does not wait. 0: each alone,
    so that a score's last bits never depend on what arrived beside it."""
    cache_entries: int = Field(default=0, ge=0)
    """Rows of one-row requests whose scores are kept per model version, some 0.5 kB each; for a
    large model that is asked the same again. 0: none, as a small model is scored about as fast."""
    model_memory_mb: int = Field(default=1024, ge=1)
    """Megabytes that the loaded models of a repository may take together, estimated from their
    files: another takes the place of the least recently used. A small one counts as 4."""
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
    """Limits, of each worker."""
    tls: TlsSettings = TlsSettings()
    """Transport security."""
    log: PredictionLogSettings = PredictionLogSettings()
    """The prediction log."""
    access_log: AccessLogSettings = AccessLogSettings()
    """The access log."""
    traces: TraceSettings = TraceSettings()
    """Traces."""


class GatewaySettings(Group):
    """Envoy, the local gateway."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port that clients call."""
    admin_port: int = Field(default=9901, ge=1, le=65535)
    """Envoy's admin port, on loopback."""
    server_ports: tuple[int, int] = (8100, 8199)
    """Range from which model servers take their ports."""
