"""The first process of a container: build its view of the machine, drop its rights, become it.

    python -I -S enter.py SPEC

Runs in new mount, PID and host-name namespaces. SPEC is a JSON file that `launch.py` writes. What
goes wrong before the container's program starts is written to the pipe `failures`, which closes
when that program starts. Uses the standard library alone, to start fast.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 24, 38, 9
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Enter and never return."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    failures = os.open(spec["failures"], os.O_WRONLY | os.O_CLOEXEC)
    try:
        build_root(spec)
        socket.sethostname(spec["hostname"])
        os.chroot(spec["merged"])
        Path(spec["cwd"]).mkdir(parents=True, exist_ok=True)
        if spec["readOnlyRoot"]:
            mount(None, "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
        os.chdir(spec["cwd"])
        drop_rights(spec)
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(failures, f"{spec['argv'][0]}: {error}".encode())
        os._exit(128)


def build_root(spec: dict[str, Any]) -> None:
    """Mount the image below a layer of the container's own, the kernel's files, and the volumes."""
    root = spec["merged"]
    layers = f"lowerdir={spec['root']},upperdir={spec['upper']},workdir={spec['work']}"
    mount("overlay", root, "overlay", data=layers)
    for folder in ("proc", "sys", "dev"):
        Path(root, folder).mkdir(exist_ok=True)
    mount("proc", f"{root}/proc", "proc")
    mount("/sys", f"{root}/sys", flags=MS_BIND | MS_REC)
    mount("tmpfs", f"{root}/dev", "tmpfs", data="mode=755")
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(root, "dev", name).symlink_to(f"/proc/self/fd{target}")
    Path(root, "dev/shm").mkdir()
    Path(root, "dev/shm").chmod(0o1777)
    for one in spec["binds"]:
        target = inside(root, one["target"])
        bind(one["source"], target)
        if one["readOnly"]:
            mount(None, target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def bind(source: str, target: str) -> None:
    """Bind a file or a folder, whose target is made if it is not there."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    mount(source, target, flags=MS_BIND)


def inside(root: str, path: str) -> str:
    """Resolve a path as the container will: its absolute links start at its own root.

    Else a mount on /var/run, a link to /run, would land on this machine's /run.
    """
    done = ""
    todo = path.split("/")[::-1]
    while todo:
        part = todo.pop()
        if part == "..":
            done = done.rpartition("/")[0]
        elif part not in ("", "."):
            step = f"{done}/{part}"
            if (at := Path(root + step)).is_symlink():
                link = str(at.readlink())
                done = "" if link.startswith("/") else done
                todo += link.split("/")[::-1]
            else:
                done = step
    return root + done


def drop_rights(spec: dict[str, Any]) -> None:
    """Become the container's user."""
    if spec["dropCapabilities"]:
        for capability in range(41):
            prctl(PR_CAPBSET_DROP, capability)
    os.setgroups(spec["groups"])
    os.setgid(spec["gid"])
    os.setuid(spec["uid"])
    if spec["noNewPrivileges"]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, SIGKILL)  # the kernel forgets it when the user changes


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """Call mount(2)."""
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    if LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode() or None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount: {os.strerror(code)}", target)


def prctl(option: int, value: int) -> None:
    """Call prctl(2); a capability that this kernel does not know is none to drop."""
    LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    main()
