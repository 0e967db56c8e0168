"""Start a container's process in namespaces of its own; `enter.py` does the rest inside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.node.api import Object
from tests.cluster.node.images import Image
from tests.cluster.node.manifest import Manifest, expand
from tests.cluster.node.sources import CannotStart

ROOT = Path(__file__).parents[3]

ENTER = Path(__file__).with_name("enter.py")


class StartError(Exception):
    """The container's program could not be started; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where the containers of one pod live."""

    folder: Path
    network: str
    """Name of the pod's network namespace."""
    volumes: Mapping[str, Path]


async def launch(
    pod: Manifest, container: Object, image: Image, env: dict[str, str], place: Place, run: Path
) -> asyncio.subprocess.Process:
    """Start one run of a container, with `run` as its folder and `run`.log as its log.

    Raises:
        CannotStart: The pod asks for what cannot be.
        StartError: There is no such program, or it may not be executed.
    """
    spec = _spec(pod, container, image, env, run)
    spec["binds"] = _binds(container, env, place, run)
    if image.root == "/":
        spec["binds"] += _shown(spec["binds"])
    (run / "spec.json").write_text(json.dumps(spec))
    os.mkfifo(spec["failures"])
    argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{place.network}"]
    argv += ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL"]
    argv += [sys.executable, "-I", "-S", str(ENTER), str(run / "spec.json")]
    with run.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    if failure := await _failure(process, Path(spec["failures"])):
        await process.wait()
        raise StartError(failure)
    return process


async def _failure(process: asyncio.subprocess.Process, pipe: Path) -> str:
    """Return what is written to the pipe until its writer closes it, which it does on exec."""
    reading = asyncio.ensure_future(asyncio.to_thread(pipe.read_text))
    exited = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({reading, exited}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        exited.cancel()
        if not reading.done():  # it may have ended before it opened the pipe: end the reading
            with contextlib.suppress(OSError):
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return await reading


def _spec(pod: Manifest, container: Object, image: Image, env: dict[str, str], run: Path) -> Object:
    security = pod.security(container)
    user = security.get("runAsUser", image.user)
    if security.get("runAsNonRoot") and not user:
        raise CannotStart("container has runAsNonRoot and image will run as root")
    folders = {name: str(run / name) for name in ("upper", "work", "merged")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    if image.root == "/":  # a mode of 0700 would hide interpreters below it from other users
        (run / "upper" / "root").mkdir(mode=0o755)
    for target, source in image.copies.items():
        # Links, no layer: overlayfs refuses a layer that lies inside of another one.
        copy = run / "upper" / target.lstrip("/")
        shutil.copytree(source, copy, copy_function=os.link, dirs_exist_ok=True)
    extra = pod.spec.get("securityContext", {})
    group = security.get("runAsGroup", user)
    return {
        **folders,
        "failures": str(run / "failures"),
        "root": image.root,
        "hostname": pod.name[:63],
        "uid": user,
        "gid": group,
        "groups": [*extra.get("supplementalGroups", []), extra.get("fsGroup", group)],
        "readOnlyRoot": security.get("readOnlyRootFilesystem", False),
        "noNewPrivileges": security.get("allowPrivilegeEscalation") is False,
        "dropCapabilities": "ALL" in security.get("capabilities", {}).get("drop", []),
        "cwd": container.get("workingDir") or image.workdir,
        "argv": _argv(container, image, env),
        "env": env,
    }


def _argv(container: Object, image: Image, env: Mapping[str, str]) -> list[str]:
    command, arguments = container.get("command"), container.get("args")
    if arguments is None:
        arguments = [] if command else image.cmd
    argv = [*(command or image.entrypoint), *arguments]
    if not argv:
        raise CannotStart("no command specified")
    return [expand(word, env) for word in argv]


def _binds(container: Object, env: Mapping[str, str], place: Place, run: Path) -> list[Object]:
    termination = run / "termination"
    termination.touch()
    termination.chmod(0o666)
    message = container.get("terminationMessagePath", "/dev/termination-log")
    binds = [
        _bind(place.folder / "resolv.conf", "/etc/resolv.conf"),
        _bind(place.folder / "hosts", "/etc/hosts"),
        _bind(termination, message),
    ]
    for mount in sorted(container.get("volumeMounts", []), key=lambda one: str(one["mountPath"])):
        part = expand(mount.get("subPathExpr", mount.get("subPath", "")), env)
        source = place.volumes[mount["name"]] / part
        if not source.exists():
            source.mkdir(parents=True)
            source.chmod(0o777)
        binds.append(_bind(source, mount["mountPath"], read_only=mount.get("readOnly", False)))
    return binds


def _shown(binds: list[Object]) -> list[Object]:
    """Return what shows this checkout and its environment where a volume, say on /tmp, hides it."""
    hidden = [Path(one["target"]) for one in binds]
    folders = (ROOT, Path(sys.prefix))
    return [
        _bind(folder, str(folder), read_only=True)
        for folder in folders
        if any(folder.is_relative_to(target) for target in hidden)
    ]


def _bind(source: Path, target: str, *, read_only: bool = False) -> Object:
    return {"source": str(source), "target": target, "readOnly": read_only}
