"""Run commands on a copy of a project, on a file system that is really full.

`try_all` copies the project to a small tmpfs in a mount namespace of its own, fills that up to a
given room before each command, and tells how the command ended and which files changed. All
commands run in one process: importing what they need takes longer than they do.

That needs unprivileged user namespaces; `skip_unless_possible` says so loudly. `files_end_at` needs
nothing, and is about this process alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
SIZE = 64 << 20
"""Bytes of the file system."""
PAGE = 4096
NO_DISKS = "NO TESTS ON A FULL DISK"


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let the kernel cut every write at `size` bytes of a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@dataclass(frozen=True)
class Attempt:
    """A command with little room."""

    words: tuple[str, ...]
    room: int
    """Bytes that are free when it starts, rounded down to whole pages."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    code: int
    said: str
    """What it printed to standard error; a traceback if it did not end by itself."""
    changed: tuple[str, ...]
    """Files that are gone or have other bytes than before."""
    left: tuple[str, ...]
    """Files that were not there before."""


def skip_unless_possible() -> None:
    """Refuse the calling test, with the reason, where mount namespaces are not permitted."""
    from tests.refusal import refuse

    if not shutil.which("unshare"):
        refuse(NO_DISKS, "not installed: unshare (Debian: util-linux)")
    with_mount = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(with_mount, capture_output=True, text=True, check=False)
    if done.returncode:
        refuse(NO_DISKS, f"mount namespaces are not permitted here: {done.stderr}")


def try_all(project: Path, attempts: Sequence[Attempt], folder: Path) -> list[Outcome]:
    """Try each; `folder` is an empty one, where the file system is mounted."""
    argv = [*NAMESPACE, sys.executable, __file__, str(project), str(folder)]
    done = subprocess.run(
        argv,
        input=json.dumps([asdict(attempt) for attempt in attempts]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [
        Outcome(body["code"], body["said"], tuple(body["changed"]), tuple(body["left"]))
        for body in json.loads(done.stdout)
    ]


def _inside(project: Path, folder: Path) -> list[Outcome]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder], check=True)
    copy = shutil.copytree(project, folder / "project")
    asked = [Attempt(tuple(body["words"]), body["room"]) for body in json.load(sys.stdin)]
    return [_attempt(copy, attempt, folder / "ballast") for attempt in asked]


def _attempt(project: Path, attempt: Attempt, ballast: Path) -> Outcome:
    before = _digests(project)
    _fill(ballast, attempt.room)
    code, said = _tidemill("--project", str(project), *attempt.words)
    ballast.unlink()
    after = _digests(project)
    return Outcome(
        code,
        said,
        tuple(name for name, digest in before.items() if after.get(name) != digest),
        tuple(after.keys() - before.keys()),
    )


def _fill(ballast: Path, room: int) -> None:
    free = shutil.disk_usage(ballast.parent).free - room // PAGE * PAGE
    with ballast.open("wb", buffering=0) as file:
        for _ in range(free // PAGE):
            file.write(b"\0" * PAGE)


def _tidemill(*words: str) -> tuple[int, str]:
    from tidemill.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(list(words))
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
        except Exception:  # noqa: BLE001 - it is what is looked for
            return -1, said.getvalue() + traceback.format_exc()
    return 0, said.getvalue()


def _digests(project: Path) -> dict[str, str]:
    """Hash every file but those that a command may always add to."""
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(project.rglob("*"))
        if path.is_file() and path.name != "journal.jsonl" and "tidemill.db" not in path.name
    }


if __name__ == "__main__":
    found = _inside(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps([asdict(outcome) for outcome in found]))
