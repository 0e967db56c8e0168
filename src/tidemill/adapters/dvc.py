"""Dataset versions in a DVC remote.

Every call works in a DVC workspace of its own, made and thrown away beside the data: DVC's lock
on a shared one would fail the second of two calls at once. `<md5>.dir` alone is enough to fetch a
version, from any machine, with this adapter or with `dvc pull`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.errors import IntegrityError, MissingExtra, NotFound, TidemillError, Unavailable
from tidemill.files import restore, swap
from tidemill.ports.data import DatasetVersion

__all__ = ["DvcVersions"]

RESTORE = "restore it from a backup, or remove it and publish again: tidemill data publish"


class DvcVersions:
    """Versions in the remote at an absolute folder or `s3://bucket/prefix`."""

    def __init__(self, remote: str, endpoint_url: str = "") -> None:
        self._remote = remote
        self._options = {"endpointurl": endpoint_url} if endpoint_url else {}

    def publish(self, folder: Path) -> DatasetVersion:
        """Upload what the remote lacks and return the version; raises Unavailable."""
        with self._explained("publish", str(folder)), self._workspace(folder) as repo:
            # `add --to-remote` would spare the copy, but uploads what the remote has already and
            # leaves a temporary object behind for each file
            data = shutil.copytree(folder, Path(repo.root_dir) / "data")
            (stage,) = repo.add([str(data)])
            repo.push()
            out = stage.outs[0]
            return DatasetVersion(out.hash_info.value, out.meta.nfiles, out.meta.size)

    def fetch(self, version: str, folder: Path) -> DatasetVersion:
        """Replace `folder` by the version's files, after every byte was verified.

        Raises NotFound, IntegrityError and Unavailable; then `folder` is what it was.
        """
        with self._explained("fetch", version), self._workspace(folder) as repo:
            objects = repo.cloud.get_remote_odb("origin")
            entries = _entries(objects, version)
            root = Path(repo.root_dir)
            (root / "data.dvc").write_text(f"outs:\n- md5: {version}\n  hash: md5\n  path: data\n")
            try:
                with self._explained("fetch", version):
                    repo.pull()
            except Unavailable:
                _blame(objects, version, entries)
                raise
            size = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
            swap(root / "data", folder)
        return DatasetVersion(version, len(entries), size)

    @contextmanager
    def _workspace(self, data: Path) -> Iterator[Any]:
        """Open a throw-away DVC repository beside the data; a swap that was killed is undone."""
        try:
            from dvc.repo import Repo
        except ModuleNotFoundError as error:
            raise MissingExtra("dvc", "data") from error
        _log_to_stderr()
        data.parent.mkdir(parents=True, exist_ok=True)
        restore(data)
        with tempfile.TemporaryDirectory(dir=data.parent, prefix=".dvc-") as name:
            root = Path(name)
            (root / ".dvc").mkdir()
            config = {
                "core": {
                    "no_scm": True,
                    "analytics": False,
                    "check_update": False,
                    "remote": "origin",
                    "site_cache_dir": str(root / "site"),
                },
                "cache": {"type": "hardlink,copy"},
                "remote": {"origin": {"url": self._remote, "verify": True} | self._options},
            }
            with Repo(name, config=config) as repo:
                yield repo

    @contextmanager
    def _explained(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except TidemillError:
            raise
        except _failures() as error:
            raise Unavailable(
                f"cannot {verb} {what} with the DVC remote {self._remote}: {error}",
                hint="check data.versions, the remote and the room on both disks, then run the "
                "same command again; nothing was lost",
            ) from error


def _log_to_stderr() -> None:
    """Let DVC log to the standard error of now.

    Its handlers keep the streams of when it was imported, and raise when those are closed.
    """
    for handler in logging.getLogger("dvc").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = sys.stderr


def _failures() -> tuple[type[Exception], ...]:
    """Return what DVC, its databases and its file systems raise."""
    import sqlite3

    from dvc.exceptions import DvcException

    try:
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError:
        return DvcException, sqlite3.Error, OSError
    return DvcException, sqlite3.Error, OSError, BotoCoreError


def _entries(objects: Any, version: str) -> list[dict[str, str]]:
    """Read a version's list of files; DVC itself does not verify this object."""
    path = objects.oid_to_path(version)
    try:
        content = objects.fs.fs.cat_file(path)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no dataset version {version} in {objects.path}",
            hint="list the versions of models: tidemill lineage MODEL",
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" != version:
        raise IntegrityError(
            f"the object {path} was changed: its bytes are not {version}", hint=RESTORE
        )
    entries: list[dict[str, str]] = json.loads(content)
    return entries


def _blame(objects: Any, version: str, entries: list[dict[str, str]]) -> None:
    """Raise IntegrityError naming the object that is gone or was changed, if there is one."""
    for entry in entries:
        path, name = objects.oid_to_path(entry["md5"]), entry["relpath"]
        try:
            content = objects.fs.fs.cat_file(path)
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{name} of {version}: the object {path} is gone", hint=RESTORE
            ) from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != entry["md5"]:
            raise IntegrityError(
                f"{name} of {version}: the object {path} was changed ({len(content):,} bytes)",
                hint=RESTORE,
            )
