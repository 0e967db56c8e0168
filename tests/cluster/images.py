"""Builds tidemill's images here, without a registry: infra/images/Dockerfile by buildah.

    python -m tests.cluster.images SET...        builds them and prints folder and size of each
    python -m tests.cluster.images --small       those that the tests need

docker.io's Python is replaced by Debian's, on a base that debootstrap makes. What the build needs
of this machine (certificates, resolver, package index and cache) is mounted, never committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.build import CannotBuild
from tests.cluster.node.images import Image

from tidemill import images
from tidemill.adapters.reference import copy_reference

ROOT = Path(__file__).parents[2]
CACHE = "TIDEMILL_TEST_IMAGE_CACHE"
BASE = ("--variant=minbase", "--include=python3-venv,ca-certificates", "bookworm")
BASE_CONFIG = "FROM scratch\nCOPY . /\nENV PATH={path}\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = "/var/cache/uv"
"""Where a build finds this machine's cache of packages."""
SMALL = ("serve", "control", "registry")
"""What the tests of every run build; the others they build when asked for, and `train` never."""
UNUSED = 3600.0
"""Seconds after which an image that a newer one of its set has replaced is thrown away."""


def build(*sets: str) -> dict[str, Image]:
    """Return the images of dependency sets, built now if they are not in the cache.

    One caller builds; the others wait for it. An image appears whole or not at all.

    Raises:
        CannotBuild: A program is absent, this user is not root, or a build failed.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-images-") as scratch:
        context = _context(Path(scratch, "reference"))
        digest = _digest(context)
        places = {one: _cache() / f"{one}-{digest}" for one in sets}
        if not all(place.exists() for place in places.values()):
            with _locked(_cache()):
                if missing := {one: at for one, at in places.items() if not at.exists()}:
                    _build(context, missing)
        return {one: _image(place) for one, place in places.items()}


def cached(name: str) -> bool:
    """Return whether a dependency set's image is in the cache, as this checkout would build it."""
    with tempfile.TemporaryDirectory(prefix="tidemill-images-") as scratch:
        context = _context(Path(scratch, "reference"))
        return (_cache() / f"{name}-{_digest(context)}").exists()


def layer_bytes(image: Image) -> tuple[int, int]:
    """Return what an image adds to its base for the packages: as it travels, and unpacked."""
    pipe = 'tar --create --file=- --directory="$0" tidemill | gzip -1 | wc --bytes'
    argv = ["sh", "-c", pipe, f"{image.root}/opt"]
    packed = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    unpacked = sum(p.lstat().st_size for p in Path(image.root, "opt/tidemill").rglob("*"))
    return int(packed.stdout), unpacked


def _cache() -> Path:
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or xdg / "tidemill" / "images")


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _context(folder: Path) -> Path:
    """Make the project that `tidemill init` makes, with the wheel of this checkout in dist/."""
    copy_reference(folder)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder


def _digest(context: Path) -> str:
    files = sorted(path for path in context.rglob("*") if path.is_file())
    parts = [f"{path.relative_to(context)} {_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join([*BASE, *parts]).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _image(folder: Path) -> Image:
    """Return what the node runs, and note that it is in use."""
    os.utime(folder)
    config = json.loads((folder / "config.json").read_text())
    return Image(
        root=str(folder / "root"),
        entrypoint=config.get("Entrypoint") or [],
        cmd=config.get("Cmd") or [],
        env=dict(entry.split("=", 1) for entry in config["Env"]),
        workdir=config["WorkingDir"],
        user=int(config["User"].partition(":")[0]),
    )


def _build(context: Path, targets: dict[str, Path]) -> None:
    _require("buildah", "debootstrap")
    base = _base()
    with tempfile.TemporaryDirectory(prefix=".building-", dir=_cache()) as scratch:
        folder = Path(scratch)
        buildah = _Buildah(folder)
        buildah.run("bud", "--file=-", "--tag=localhost/base", base, stdin=_base_config())
        for one, target in targets.items():
            print(f"building the image {one}: about a minute, once", file=sys.stderr)
            wheel = next((context / "dist").iterdir()).name
            arguments = {"BASE": "localhost/base", "SOURCE": f"@ file:///build/{wheel}"}
            made = folder / one
            buildah.run(
                "bud", *_machine(folder), *(f"--build-arg={k}={v}" for k, v in arguments.items()),
                f"--file={context}/infra/images/Dockerfile", f"--target={one}",
                f"--output=type=local,dest={made / 'root'}", f"--tag=localhost/{one}", context,
            )  # fmt: skip
            (made / "root").chmod(0o755)  # buildah makes it for root alone
            (made / "config.json").write_text(json.dumps(buildah.config(f"localhost/{one}")))
            buildah.run("rmi", f"localhost/{one}")
            _forget(one)
            made.rename(target)


def _base_config() -> str:
    return BASE_CONFIG.format(path=PATH)


class _Buildah:
    """buildah with a storage of its own, which goes with the folder.

    Its mounts are in a namespace of each call: none is left of one that was killed.
    """

    def __init__(self, folder: Path) -> None:
        self._storage = [f"--root={folder}/storage", f"--runroot={folder}/run"]

    def run(self, verb: str, *arguments: str | Path, stdin: str = "") -> str:
        isolated = ["--isolation=chroot"] if verb == "bud" else []
        argv = ["unshare", "--mount", "buildah", *self._storage, verb, *isolated]
        argv += map(str, arguments)
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotBuild(f"{' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's config: entrypoint, environment, user."""
        said = json.loads(self.run("inspect", "--type=image", image))
        config: dict[str, Any] = said["OCIv1"]["config"]
        return config


def _machine(folder: Path) -> Iterator[str]:
    """Lend this machine's certificates, package index and cache of packages to a build."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL", "")
    settings = folder / "uv.toml"
    lines = ["system-certs = true", f'cache-dir = "{PACKAGES}"']
    lines += [f'index-url = "{index}"'] if index else []
    settings.write_text("\n".join(lines))
    packages = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    packages.mkdir(parents=True, exist_ok=True)
    lent = {"/etc/ssl/certs": "/etc/ssl/certs:ro", settings: "/etc/uv/uv.toml:ro"}
    lent |= {"/etc/pip.conf": "/etc/pip.conf:ro", packages: PACKAGES}
    yield from (f"--volume={k}:{v}" for k, v in lent.items() if Path(k).exists())


def _base() -> Path:
    """Return the root file system of Debian with Python and its venv module."""
    target = _cache() / f"base-{hashlib.sha256(' '.join(BASE).encode()).hexdigest()[:16]}"
    if target.exists():
        return target
    print("making Debian with Python by debootstrap: about a minute, once", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=_cache()) as scratch:
        root = Path(scratch, "root")
        done = subprocess.run(["debootstrap", *BASE, root], capture_output=True, text=True)
        if done.returncode:
            raise CannotBuild(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        for left in ("var/cache/apt", "var/lib/apt/lists"):  # 90 MB
            shutil.rmtree(root / left)
        for ours in ("etc/resolv.conf", "etc/hostname"):
            (root / ours).unlink(missing_ok=True)
        root.rename(target)
    return target


def _require(*programs: str) -> None:
    if absent := [name for name in programs if not shutil.which(name)]:
        raise CannotBuild(f"no {' and no '.join(absent)}: apt-get install {' '.join(absent)}")
    if os.geteuid():
        raise CannotBuild("images are built as root: debootstrap makes device nodes")


def _forget(name: str) -> None:
    """Remove the set's images that nobody has used for a while."""
    for folder in _cache().glob(f"{name}-*"):
        if time.time() - folder.stat().st_mtime > UNUSED:
            shutil.rmtree(folder)


def main(sets: Sequence[str]) -> None:
    """Build, and print what it came to; for the tests only build."""
    if list(sets) == ["--small"]:
        build(*SMALL)
        return
    if unknown := set(sets) - set(images.SETS):
        raise CannotBuild(f"no set {', '.join(unknown)}: there are {', '.join(images.SETS)}")
    for name, image in build(*sets).items():
        packed, unpacked = layer_bytes(image)
        print(f"{name:10} {packed / 1e6:5.0f} MB, unpacked {unpacked / 1e6:5.0f} MB  {image.root}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CannotBuild as error:
        sys.exit(f"{error}")
