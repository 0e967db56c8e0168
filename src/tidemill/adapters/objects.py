"""Object stores: a folder, or a bucket of an S3-compatible service."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tidemill.errors import MissingExtra, NotFound, Unavailable, UsageError
from tidemill.files import PARTIAL, replace
from tidemill.ports.objects import ObjectStore

__all__ = ["FolderStore", "S3Store", "StampedStore", "open_objects"]


class StampedStore(ObjectStore, Protocol):
    """An object store that can tell whether an object changed without reading it all."""

    def stamps(self, prefix: str) -> dict[str, str]:
        """Return a digest of the content of every key that begins with `prefix`."""
        ...


def open_objects(url: str, endpoint_url: str = "") -> StampedStore:
    """Open the store at an absolute folder or `s3://bucket/prefix`."""
    if url.startswith("s3://"):
        return S3Store(url, endpoint_url)
    return FolderStore(Path(url))


class FolderStore:
    """Objects as files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, content: bytes | Path) -> str:
        """Write the object beside its place, flush it to the disk, then rename it there."""
        target = self._path(key)
        data = content.read_bytes() if isinstance(content, Path) else content
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace(target, data, durable=True)
        except OSError as error:
            raise Unavailable(
                f"the object '{key}' ({len(data):,} bytes) cannot be written to {self._root}: "
                f"{error.strerror}",
                hint="free space or mend the folder, then run the same command again",
            ) from error
        return target.as_uri()

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"there is no object '{key}' in {self._root}") from error
        except OSError as error:
            raise Unavailable(
                f"the object '{key}' in {self._root} cannot be read: {error.strerror}",
                hint="check the folder's rights and its disk, then run the command again",
            ) from error

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        base = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self._root
        found = (p for p in base.rglob("*") if p.is_file() and not p.name.startswith(PARTIAL))
        keys = (p.relative_to(self._root).as_posix() for p in found)
        return sorted(key for key in keys if key.startswith(prefix))

    def stamps(self, prefix: str) -> dict[str, str]:
        """Return the SHA-256 of every file: times of modification prove nothing."""
        return {key: _sha256(self._path(key)) for key in self.list(prefix)}

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key)
        if parts.is_absolute() or ".." in parts.parts:
            raise UsageError(f"'{key}' is no key: it must be relative and without '..'")
        return self._root / parts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class S3Store:
    """Objects of a bucket; S3 makes every put appear whole or not at all.

    Credentials and region come from the environment, as for every AWS client. Raises MissingExtra
    when boto3 is not installed: at the start, not with the first object.
    """

    def __init__(self, url: str, endpoint_url: str = "") -> None:
        if find_spec("boto3") is None:
            raise MissingExtra("boto3", "s3")
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self._endpoint = endpoint_url

    def put(self, key: str, content: bytes | Path) -> str:
        """Upload the object; raises Unavailable for a bucket that is missing, too.

        Somebody may make it yet: what keeps rows until they are stored must not give them up.
        """
        try:
            with self._explained(key) as client:
                if isinstance(content, Path):
                    client.upload_file(str(content), self._bucket, self._prefix + key)
                else:
                    client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)
        except NotFound as error:
            raise Unavailable(
                error.message, hint="make the bucket, or correct the setting that names it"
            ) from error
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`."""
        with self._explained(key) as client:
            answer = client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            body: bytes = answer["Body"].read()
        return body

    def list(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        return sorted(self.stamps(prefix))

    def stamps(self, prefix: str) -> dict[str, str]:
        """Return the ETag of every object."""
        with self._explained(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            items = [item for page in pages for item in page.get("Contents", [])]
        return {i["Key"].removeprefix(self._prefix): i["ETag"].strip('"') for i in items}

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 3})
        return boto3.client("s3", endpoint_url=self._endpoint or None, config=config)

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[Any]:
        """Lend the client and turn what it raises about `key` into tidemill's errors."""
        client = self._client
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"s3://{self._bucket}/{self._prefix}{key}"
        try:
            yield client
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"NoSuchKey", "NoSuchBucket", "404"}:
                raise NotFound(f"there is no {where} ({code})") from error
            raise Unavailable(
                f"{where}: the object store refused ({code}): {error}",
                hint="check the AWS_… credentials and what they may do with the bucket",
            ) from error
        except (Boto3Error, BotoCoreError, OSError) as error:
            raise Unavailable(
                f"{where}: the object store at {self._endpoint or 'AWS'} did not answer: {error}",
                hint="check the endpoint and the AWS_… credentials, then run the command again",
            ) from error
