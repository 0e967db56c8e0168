"""Build the test cluster's programs from Go modules, once for each version of go.mod.

    python -m tests.cluster.build       prints the folder: 5 minutes cold on two cores

The versions are pinned by go.mod and go.sum; nothing prebuilt is fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = Path(__file__).parent
PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubectl", "helm", "kubeconform"),
)
CACHE = "TIDEMILL_TEST_CLUSTER_CACHE"


class CannotBuild(Exception):
    """The programs are not in the cache and cannot be built here; the message says why."""


def folder(module: Path = MODULE) -> Path:
    """Return where the programs of a folder's go.mod are, or will be."""
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get(CACHE) or xdg / "tidemill" / "cluster")
    pins = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    return cache / hashlib.sha256(pins).hexdigest()[:16]


def build(module: Path = MODULE, programs: tuple[str, ...] = PROGRAMS) -> Path:
    """Return the folder of all `programs`, built now if they are not there.

    `module` is the folder of a go.mod whose tools they are. One caller builds; the others wait for
    it. The folder appears whole or not at all.

    Raises:
        CannotBuild: Go is absent, or its build failed.
    """
    target = folder(module)
    if target.exists():
        return target
    if not shutil.which("go"):
        raise CannotBuild("no `go` on the PATH to build the test cluster with: install Go >=1.24")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build_into(target, module, programs)
    return target


def _build_into(target: Path, module: Path, programs: tuple[str, ...]) -> None:
    print(f"building {', '.join(programs)} into {target}: minutes, once", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        argv = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
        argv += ["-ldflags", _ldflags(), "-o", f"{scratch}/bin/", "tool"]
        # What Go compiles on the way is 3 GB that nobody needs again.
        kept = {"GOCACHE": f"{scratch}/cache", "CGO_ENABLED": "0", "GOWORK": "off"}
        env = os.environ | kept
        # Others may be at work on this machine.
        done = subprocess.run(["nice", "-n", "10", *argv], cwd=module, env=env, check=False)
        if done.returncode:
            raise CannotBuild(f"go build ended with {done.returncode}: see its message above")
        made = Path(scratch, "bin")
        if module == MODULE:
            (made / "server").rename(made / "etcd")  # Go names it after its folder
        if missing := [name for name in programs if not (made / name).exists()]:
            raise CannotBuild(f"go build made no {', '.join(missing)}: see `tool` in go.mod")
        made.rename(target)


def _ldflags() -> str:
    """Return what the makers' own builds link in: the versions, which clients ask for."""
    major, minor, _ = version("k8s.io/kubernetes").lstrip("v").split(".")
    base, chart = "k8s.io/component-base/version", "helm.sh/helm/v3/pkg"
    values = {
        f"{base}.gitVersion": version("k8s.io/kubernetes"),
        f"{base}.gitMajor": major,
        f"{base}.gitMinor": minor,
        f"{chart}/chartutil.k8sVersionMajor": major,
        f"{chart}/chartutil.k8sVersionMinor": minor,
        f"{chart}/lint/rules.k8sVersionMajor": major,
        f"{chart}/lint/rules.k8sVersionMinor": minor,
        "helm.sh/helm/v3/internal/version.version": version("helm.sh/helm/v3"),
    }
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in values.items())])


def version(module: str) -> str:
    """Return the version that go.mod requires of a module."""
    found = re.search(rf"^\s+{re.escape(module)} (v\S+)", (MODULE / "go.mod").read_text(), re.M)
    if found is None:
        raise CannotBuild(f"go.mod requires no {module}")
    return found.group(1)


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"{error}")
