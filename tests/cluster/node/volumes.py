"""A pod's volumes as folders of this machine."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.node.api import Api, Object, Refused
from tests.cluster.node.manifest import Manifest
from tests.cluster.node.sources import CannotStart, Files, read, token

FILES = ("configMap", "secret", "downwardAPI", "projected")


async def create(api: Api, pod: Manifest, folder: Path) -> dict[str, Path]:
    """Make all volumes of a pod below `folder`; returns the folder of each by name.

    Raises:
        CannotStart: Something that a volume is made of is absent, or the kind is not supported.
    """
    made = {}
    for volume in pod.spec.get("volumes", []):
        made[volume["name"]] = await _create(api, pod, volume, folder / volume["name"])
    return made


async def _create(api: Api, pod: Manifest, volume: Object, folder: Path) -> Path:
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "persistentVolumeClaim" in volume:
        return await _claimed(api, pod, volume["persistentVolumeClaim"]["claimName"])
    kind = next((kind for kind in FILES if kind in volume), None)
    if kind is None and "emptyDir" not in volume:
        raise CannotStart(f"volume {volume['name']} is of a kind that the test node lacks")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # in place of fsGroup
    if kind:
        source = volume[kind]
        for part in source["sources"] if kind == "projected" else [{kind: source}]:
            _write(folder, await _files(api, pod, part), source.get("defaultMode", 0o644))
    return folder


async def _files(api: Api, pod: Manifest, source: Object) -> Files:
    kind, what = next(iter(source.items()))
    if kind == "serviceAccountToken":
        return {what["path"]: await token(api, pod, what)}
    items = what.get("items", [])
    if kind == "downwardAPI":
        return {item["path"]: _field(pod, item).encode() for item in items}
    data = await read(api, pod, kind, what)
    if absent := [item["key"] for item in items if item["key"] not in data]:
        raise CannotStart(f"{kind} {what.get('name')} has no {', '.join(absent)}")
    return {item["path"]: data[item["key"]] for item in items} if items else data


def _field(pod: Manifest, item: Object) -> str:
    if "fieldRef" in item:
        return pod.field(item["fieldRef"]["fieldPath"])
    return pod.resource(item["resourceFieldRef"], {})


def _write(folder: Path, files: Files, mode: int) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode | 0o444)  # readable without fsGroup


async def _claimed(api: Api, pod: Manifest, claim: str) -> Path:
    """Return the folder of a claim that is bound to a volume with a hostPath."""
    claims = f"/api/v1/namespaces/{pod.namespace}/persistentvolumeclaims"
    try:
        bound = (await api.get(f"{claims}/{claim}"))["spec"]["volumeName"]
        spec = (await api.get(f"/api/v1/persistentvolumes/{bound}"))["spec"]
    except (Refused, KeyError) as error:
        raise CannotStart(f"persistentVolumeClaim {claim} is not bound: {error}") from error
    path = Path(spec["hostPath"]["path"])
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    return path
