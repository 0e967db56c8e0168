"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService` beside REST.

Lives here: the protocol's messages (`schema`, from `open_inference.proto`), a request's tensors and
its answer (`tensors`), the calls (`service`), who comes in and how a refusal is told (`calls`),
`grpc.health.v1` (`health`), and the listening end with its limits and TLS (`endpoint`).
May not live here: anything that decides otherwise than for REST. Models, validation, keys, limits
and counters are those of `tidemill.server`, which never imports this package: it brings gRPC's
library with it, and a server without the endpoint does without.
"""

from tidemill.server.rpc.endpoint import Endpoint

__all__ = ["Endpoint"]
