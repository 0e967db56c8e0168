"""The environment variables of a container, in the order that Kubernetes gives them."""

from __future__ import annotations

from tests.cluster.node.api import Api, Object
from tests.cluster.node.images import Image
from tests.cluster.node.manifest import Manifest, expand
from tests.cluster.node.sources import CannotStart, read

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def variables(
    api: Api, pod: Manifest, container: Object, image: Image, api_address: str
) -> dict[str, str]:
    """Return them all.

    Raises:
        CannotStart: A ConfigMap, a Secret or a key of one that must be there is not.
    """
    env = {"PATH": PATH, "HOSTNAME": pod.name, "HOME": "/", **image.env}
    env |= await _services(api, pod, api_address)
    for source in container.get("envFrom", []):
        kind = "secret" if "secretRef" in source else "configMap"
        data = await read(api, pod, kind, source[f"{kind}Ref"])
        env |= {source.get("prefix", "") + key: text.decode() for key, text in data.items()}
    for entry in container.get("env", []):
        value = await _value(api, pod, container, entry, env)
        if value is not None:
            env[entry["name"]] = value
    return env


async def _value(
    api: Api, pod: Manifest, container: Object, entry: Object, env: dict[str, str]
) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return expand(entry.get("value", ""), env)
    if "fieldRef" in source:
        return pod.field(source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return pod.resource(source["resourceFieldRef"], container)
    kind = "secret" if "secretKeyRef" in source else "configMap"
    reference = source[f"{kind}KeyRef"]
    data = await read(api, pod, kind, reference)
    if reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    raise CannotStart(f"couldn't find key {reference['key']} in {kind} {reference['name']}")


async def _services(api: Api, pod: Manifest, api_address: str) -> dict[str, str]:
    """Return the API server's variables and, unless the pod declines, its namespace's services'.

    The latter include NAME_PORT=tcp://..., which programs that read NAME_PORT stumble over.
    """
    env = _links("kubernetes", api_address, [{"name": "https", "port": 443}])
    if pod.spec.get("enableServiceLinks", True):
        found = await api.get(f"/api/v1/namespaces/{pod.namespace}/services")
        for service in found["items"]:
            spec = service["spec"]
            if spec.get("clusterIP", "None") != "None":
                env |= _links(service["metadata"]["name"], spec["clusterIP"], spec["ports"])
    return env


def _links(service: str, address: str, ports: list[Object]) -> dict[str, str]:
    name, first = _upper(service), ports[0]["port"]
    env = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(first),
        f"{name}_PORT": f"tcp://{address}:{first}",
    }
    for port in ports:
        if port.get("name"):
            env[f"{name}_SERVICE_PORT_{_upper(port['name'])}"] = str(port["port"])
    return env


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")
