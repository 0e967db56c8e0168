"""A pod object, read: what its containers may ask about it, and $(VAR)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.cluster.node.api import Object

SUFFIXES = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "Ki": Decimal(2**10), "Mi": Decimal(2**20),
    "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip


class Manifest:
    """A pod as the API server has it; `object` is replaced when that changes."""

    def __init__(self, pod: Object, node_address: str) -> None:
        self.object, self._node_address = pod, node_address
        self.address = ""
        """The pod's own, once it has one."""

    @property
    def spec(self) -> Object:
        """Return what is wanted; most of it never changes."""
        return dict(self.object["spec"])

    @property
    def name(self) -> str:
        """Return the pod's name."""
        return str(self.object["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Return the pod's namespace."""
        return str(self.object["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Return what tells it from another pod of the same name."""
        return str(self.object["metadata"]["uid"])

    @property
    def path(self) -> str:
        """Return where the API server has it."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def service_account(self) -> str:
        """Return the name of the ServiceAccount it runs as."""
        return str(self.spec.get("serviceAccountName", "default"))

    @property
    def grace(self) -> float:
        """Return the seconds between SIGTERM and SIGKILL."""
        meta = self.object["metadata"]
        return float(
            meta.get("deletionGracePeriodSeconds", self.spec["terminationGracePeriodSeconds"])
        )

    def security(self, container: Object) -> Object:
        """Return a container's security context over the pod's."""
        return {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}

    def field(self, path: str) -> str:
        """Return a `fieldRef` of the downward API."""
        known = {
            "spec.nodeName": self.spec.get("nodeName", ""),
            "spec.serviceAccountName": self.service_account,
            "status.hostIP": self._node_address,
            "status.podIP": self.address,
            "status.podIPs": self.address,
        }
        if path in known:
            return str(known[path])
        if entry := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str(self.object["metadata"].get(entry[1], {}).get(entry[2], ""))
        value: Any = self.object["metadata"].get(path.removeprefix("metadata."), "")
        if isinstance(value, dict):
            return "\n".join(f'{key}="{text}"' for key, text in sorted(value.items()))
        return str(value)

    def resource(self, reference: Object, container: Object) -> str:
        """Return a `resourceFieldRef`; without a limit it is what this machine has."""
        name = reference.get("containerName", container.get("name"))
        owner = next((one for one in self.spec["containers"] if one["name"] == name), container)
        kind, what = reference["resource"].split(".")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        machine = {"cpu": os.cpu_count() or 1, "memory": memory}
        value = owner.get("resources", {}).get(kind, {}).get(what, machine.get(what, 0))
        divisor = quantity(reference.get("divisor", "1")) or 1  # the API server writes 0 for none
        return str(math.ceil(quantity(str(value)) / divisor))


def unsupported(spec: Object) -> list[str]:
    """Return what a pod asks for that the test node would otherwise pass over in silence."""
    found = [
        name for name in ("hostNetwork", "hostPID", "hostIPC", "hostAliases") if spec.get(name)
    ]
    if any(one.get("restartPolicy") for one in spec.get("initContainers", [])):
        found.append("sidecar containers")
    if any("postStart" in one.get("lifecycle", {}) for one in spec["containers"]):
        found.append("lifecycle.postStart")
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    if any("grpc" in one.get(probe, {}) for one in spec["containers"] for probe in probes):
        found.append("gRPC probes")
    return found


def port(container: Object, name: int | str) -> int:
    """Return a port number, looked up if it is a name."""
    if isinstance(name, int):
        return name
    ports = container.get("ports", [])
    return int(next(one["containerPort"] for one in ports if one.get("name") == name))


def quantity(text: str) -> Decimal:
    """Read a Kubernetes quantity: 250m, 1Gi, 2."""
    number = text.rstrip("kKMGTmi")
    return Decimal(number) * SUFFIXES[text.removeprefix(number)]


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace $(VAR): an unknown name stays as it is, and $$ is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, text)
