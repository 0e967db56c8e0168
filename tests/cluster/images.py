"""Builds tidemill's images here, without a registry: infra/images/Dockerfile by buildah.

    python -m tests.cluster.images SET...        builds them and prints folder and size of each
    python -m tests.cluster.images --tested      those that the tests need

docker.io's Python is replaced by Debian's, on a base that debootstrap makes. What the build needs
of this machine (certificates, resolver, package index and cache) is mounted, never committed.
"""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.cluster.build import CannotBuild
from tests.cluster.node.images import Image

from tidemill import images
from tidemill.adapters.reference import copy_reference

ROOT = Path(__file__).parents[2]
CACHE = "TIDEMILL_TEST_IMAGE_CACHE"
BASE = ("--variant=minbase", "--include=python3-venv,ca-certificates", "bookworm")
BASE_CONFIG = "FROM scratch\nCOPY . /\nENV PATH={path}\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_NAME = "localhost/base"
AT_ONCE = 2
"""Builds side by side: installing uses every core, what follows reads and writes files on one."""
PACKAGES = "/var/cache/uv"
"""Where a build finds this machine's cache of packages."""
TESTED = tuple(name for name in images.SETS if name != "train")
"""What the tests build. `train` is 6 GB and never built by a test."""
MEMORY = Path("/dev/shm")
ROOM = 12e9
"""Bytes of memory that two builds' layers may take, several times the images; they go to the disk
where there is less."""
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


def packed_bytes(image: Image) -> int:
    """Return what an image adds to its base for the packages, as it travels."""
    pipe = 'tar --create --file=- --directory="$0" tidemill | gzip -1 | wc --bytes'
    argv = ["sh", "-c", pipe, f"{image.root}/opt"]
    return int(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)


def unpacked_bytes(image: Image) -> int:
    """Return what an image adds to its base for the packages, on the disk of a node."""
    return sum(path.lstat().st_size for path in Path(image.root, "opt/tidemill").rglob("*"))


def _cache() -> Path:
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or xdg / "tidemill" / "images")


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Be the only one who builds, in a cache without what killed builds left."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process builds images: waiting for {lock.name}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (*cache.glob(".building-*"), *cache.glob(".base-*"), _in_memory()):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _in_memory() -> Path:
    """Return the folder of this cache's builds in memory."""
    return MEMORY / f"tidemill-images-{hashlib.sha256(str(_cache()).encode()).hexdigest()[:16]}"


@contextmanager
def _layers(scratch: Path) -> Iterator[Path]:
    """Make the folder of a build's layers: in memory if it can be, else in `scratch`."""
    folder = _in_memory() if _memory_serves() else scratch / "layers"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _memory_serves() -> bool:
    """Whether programs can run from a file system in memory, and layers have room there."""
    if not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM


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
    _require("buildah", "debootstrap", "setpriv")
    root = _base()
    with (
        tempfile.TemporaryDirectory(prefix=".building-", dir=_cache()) as scratch,
        _layers(Path(scratch)) as layers,
    ):
        base = _Buildah(layers / "base")
        base.run("bud", "--file=-", f"--tag={BASE_NAME}", root, stdin=_base_config())

        def make(name: str) -> None:
            _make(name, context, layers, Path(scratch, name))
            Path(scratch, name).rename(targets[name])

        with ThreadPoolExecutor(AT_ONCE) as builders:
            list(builders.map(make, targets))
    for name in targets:
        _forget(name)


def _make(name: str, context: Path, layers: Path, made: Path) -> None:
    """Build one set's image into `made`, its layers beside those of its base."""
    began = time.monotonic()
    print(f"building the image {name}: a minute or two, once", file=sys.stderr)
    own = layers / name
    buildah = _Buildah(own, base=layers / "base")
    wheel = next((context / "dist").iterdir()).name
    arguments = {"BASE": BASE_NAME, "SOURCE": f"@ file:///build/{wheel}"}
    buildah.run(
        "bud", *_machine(own), *(f"--build-arg={k}={v}" for k, v in arguments.items()),
        f"--file={context}/infra/images/Dockerfile", f"--target={name}",
        f"--output=type=local,dest={made / 'root'}", f"--tag=localhost/{name}", context,
    )  # fmt: skip
    (made / "root").chmod(0o755)  # buildah makes it for root alone
    (made / "config.json").write_text(json.dumps(buildah.config(f"localhost/{name}")))
    shutil.rmtree(own)
    _share(made)
    print(f"built the image {name} in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _base_config() -> str:
    return BASE_CONFIG.format(path=PATH)


def _share(made: Path) -> None:
    """Keep what another image has, too, on the disk once: half of what they come to."""
    others = [other for one in images.SETS for other in _cache().glob(f"{one}-*/root")]
    for path in (made / "root").rglob("*"):
        if path.suffix not in (".py", ".pyc") and path.is_file() and not path.is_symlink():
            for other in others:
                same = other / path.relative_to(made / "root")
                if _equal(path, same):
                    link = path.with_name(f".{path.name}.link")
                    link.hardlink_to(same)
                    link.replace(path)
                    break


def _equal(path: Path, other: Path) -> bool:
    """Whether two files are one but for the time; a source's time is in its bytecode."""
    try:
        mine, theirs = path.lstat(), other.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    alike = all(
        getattr(mine, name) == getattr(theirs, name)
        for name in ("st_size", "st_mode", "st_uid", "st_gid")
    )
    return alike and filecmp.cmp(path, other, shallow=False)


class _Buildah:
    """buildah with a storage of its own, which goes with the folder, and images of `base`'s.

    Its mounts are in a namespace of each call: none is left of one that was killed. It ends with
    the thread that called it: what nobody waits for any more would slow down whoever tries again.
    """

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        folder.mkdir()
        self._storage = [f"--root={folder}/storage", f"--runroot={folder}/run"]
        self._storage += ["--storage-driver=overlay"]
        if base:
            self._storage += [f"--storage-opt=overlay.imagestore={base}/storage"]
        self._environment = os.environ | {"TMPDIR": str(folder)}

    def run(self, verb: str, *arguments: str | Path, stdin: str = "") -> str:
        isolated = ["--isolation=chroot"] if verb == "bud" else []
        argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "buildah"]
        argv += [*self._storage, verb, *isolated, *map(str, arguments)]
        done = subprocess.run(
            argv, input=stdin, env=self._environment, capture_output=True, text=True, check=False
        )
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
    if list(sets) == ["--tested"]:
        build(*TESTED)
        return
    if unknown := set(sets) - set(images.SETS):
        raise CannotBuild(f"no set {', '.join(unknown)}: there are {', '.join(images.SETS)}")
    for name, image in build(*sets).items():
        packed, unpacked = packed_bytes(image), unpacked_bytes(image)
        print(f"{name:10} {packed / 1e6:5.0f} MB, unpacked {unpacked / 1e6:5.0f} MB  {image.root}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except CannotBuild as error:
        sys.exit(f"{error}")
