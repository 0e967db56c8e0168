"""ConfigMaps, Secrets and tokens: what volumes and environment variables are made of."""

from __future__ import annotations

import base64

from tests.cluster.node.api import Api, Object, Refused
from tests.cluster.node.manifest import Manifest

Files = dict[str, bytes]


class CannotStart(Exception):
    """A container cannot be made as its pod says; it is tried again until it can."""


async def read(api: Api, pod: Manifest, kind: str, reference: Object) -> Files:
    """Return what a `configMap` or a `secret` holds; nothing if it is optional and absent.

    Raises:
        CannotStart: It is not there.
    """
    name = reference.get("secretName") or reference["name"]
    plural = {"configMap": "configmaps", "secret": "secrets"}[kind]
    try:
        found = await api.get(f"/api/v1/namespaces/{pod.namespace}/{plural}/{name}")
    except Refused as error:  # a node may not read what no pod of its own refers to
        if reference.get("optional") and error.status in (403, 404):
            return {}
        raise CannotStart(f"{kind} {pod.namespace}/{name}: {error}") from error
    binary = found.get("binaryData") or {}
    data = {key: base64.b64decode(text) for key, text in binary.items()}
    for key, text in (found.get("data") or {}).items():
        data[key] = base64.b64decode(text) if kind == "secret" else text.encode()
    return data


async def token(api: Api, pod: Manifest, projection: Object) -> bytes:
    """Return a new token of the pod's ServiceAccount, bound to the pod.

    Raises:
        CannotStart: There is no such account, or the API server does not know yet that a pod of
            this node has it: its authorizer hears of the pod later than the node may.
    """
    spec = {
        "audiences": [projection["audience"]] if projection.get("audience") else [],
        "expirationSeconds": projection.get("expirationSeconds", 3600),
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid},
    }
    accounts = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts"
    try:
        made = await api.post(f"{accounts}/{pod.service_account}/token", {"spec": spec})
    except Refused as error:
        raise CannotStart(f"token of {pod.namespace}/{pod.service_account}: {error}") from error
    return str(made["status"]["token"]).encode()
