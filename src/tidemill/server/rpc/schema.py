"""The messages of `open_inference.proto`.

They are built in a pool of their own from the compiled description: Triton's and KServe's clients
each register the package `inference` in protobuf's default pool, which takes it only once, so code
generated for that pool could not be loaded beside them in one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tidemill.server.protocol import Rejected

__all__ = ["SERVICE", "Message", "message", "parse", "pool"]

SERVICE = "inference.GRPCInferenceService"
COMPILED = Path(__file__).with_name("open_inference.binpb")

Message: TypeAlias = Any
"""A protobuf message: its fields are attributes that only the description knows."""


def _pool() -> DescriptorPool:
    made = DescriptorPool()
    for file in FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        made.Add(file)
    return made


pool = _pool()


def message(name: str) -> type[Any]:
    """Return the class of the message `inference.<name>`; raises KeyError."""
    return GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))


def parse(kind: type[Any], content: bytes) -> Message:
    """Read a message; raises Rejected. Fields that are not known are ignored, as in all of gRPC."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise Rejected(
            "malformed_message", f"the message is no {kind.DESCRIPTOR.full_name}"
        ) from error
