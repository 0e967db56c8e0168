"""Dataset versions in a real DVC remote: a folder, and a bucket."""

import io
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import uuid4

import boto3
import pytest

from tidemill.adapters.dvc import DvcVersions
from tidemill.errors import IntegrityError, NotFound, Unavailable
from tidemill.ports.data import DatasetVersion

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "raw"
    for name in ("flights/2013-01", "flights/2013-02", "planes/static"):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return folder


@pytest.fixture(params=["folder", "s3"])
def versions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DvcVersions]:
    if request.param == "folder":
        yield DvcVersions(str(tmp_path / "remote"))
        return
    endpoint = request.getfixturevalue("s3_url")
    bucket = f"dvc-{uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    yield DvcVersions(f"s3://{bucket}/some/prefix", endpoint)


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_a_version_is_found_by_its_id_alone(
    versions: DvcVersions, dataset: Path, tmp_path: Path
) -> None:
    version = versions.publish(dataset)
    assert version == DatasetVersion(version.id, 3, sum(map(len, files(dataset).values())))
    assert versions.publish(dataset) == version
    target = tmp_path / "elsewhere" / "raw"
    (target / "flights").mkdir(parents=True)
    (target / "flights" / "stray.parquet").write_text("old")
    assert versions.fetch(version.id, target) == version
    assert files(target) == files(dataset)
    assert sorted(p.name for p in target.parent.iterdir()) == ["raw"]
    assert sorted(p.name for p in dataset.parent.iterdir()) == ["raw"]


def test_the_id_depends_on_names_and_bytes_alone(dataset: Path, tmp_path: Path) -> None:
    versions = DvcVersions(str(tmp_path / "remote"))
    first = versions.publish(dataset)
    twin = shutil.copytree(dataset, tmp_path / "twin", copy_function=shutil.copyfile)
    assert versions.publish(twin) == first
    (twin / "planes" / "static.parquet").rename(twin / "planes" / "other.parquet")
    renamed = versions.publish(twin)
    (twin / "planes" / "other.parquet").write_bytes(b"changed")
    assert len({first.id, renamed.id, versions.publish(twin).id}) == 3


def test_an_unknown_version_is_named(versions: DvcVersions, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no dataset version 00000000000000000000000000000000\.dir"):
        versions.fetch("0" * 32 + ".dir", tmp_path / "out")


def test_publishing_twice_at_once_works(dataset: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tidemill.adapters.dvc import DvcVersions\n"
        "print(DvcVersions(sys.argv[1]).publish(Path(sys.argv[2])).id)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "remote"), str(dataset)]
    ids: list[str] = []

    def publish() -> None:
        ids.append(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    threads = [Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 2
    assert len(set(ids)) == 1


def stored(remote: Path, *, listing: bool) -> Path:
    objects = (p for p in remote.rglob("*") if p.is_file())
    return next(p for p in sorted(objects) if p.name.endswith(".dir") == listing)


@pytest.mark.parametrize("listing", [False, True])
@pytest.mark.parametrize("change", ["append", "truncate", "remove"])
def test_a_changed_object_is_named_and_the_folder_stays(
    dataset: Path, tmp_path: Path, listing: bool, change: str
) -> None:
    remote = tmp_path / "remote"
    versions = DvcVersions(str(remote))
    version = versions.publish(dataset)
    target = tmp_path / "out"
    versions.fetch(version.id, target)
    path = stored(remote, listing=listing)
    content = path.read_bytes()
    path.unlink()
    if change != "remove":
        path.write_bytes(content + b" " if change == "append" else content[:-10])
    error = NotFound if listing and change == "remove" else IntegrityError
    with pytest.raises(error) as caught:
        versions.fetch(version.id, target)
    assert (version.id if error is NotFound else path.name) in str(caught.value)
    assert files(target) == files(dataset)


def test_an_error_is_told_when_the_streams_of_the_import_are_closed(
    dataset: Path, tmp_path: Path
) -> None:
    versions = DvcVersions(str(tmp_path / "remote"))
    version = versions.publish(dataset)
    for handler in logging.getLogger("dvc").handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.stream = io.StringIO()
        handler.stream.close()
    stored(tmp_path / "remote", listing=False).unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        versions.fetch(version.id, dataset)


def test_a_fetch_that_was_killed_while_it_swapped_is_undone(dataset: Path, tmp_path: Path) -> None:
    versions = DvcVersions(str(tmp_path / "remote"))
    version, before = versions.publish(dataset), files(dataset)
    for undo in (lambda: versions.publish(dataset), lambda: versions.fetch(version.id, dataset)):
        dataset.rename(dataset.with_name(".raw.old"))  # what `files.swap` leaves there
        assert undo() == version
        assert files(dataset) == before
    dataset.rename(dataset.with_name(".raw.old"))
    with pytest.raises(NotFound):
        versions.fetch("0" * 32 + ".dir", dataset)
    assert files(dataset) == before


def test_a_changed_object_in_a_bucket_is_named(dataset: Path, tmp_path: Path, s3_url: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_url)
    client.create_bucket(Bucket="tampered")
    versions = DvcVersions("s3://tampered", s3_url)
    version = versions.publish(dataset)
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="tampered")["Contents"]]
    key = next(key for key in keys if not key.endswith(".dir"))
    client.put_object(Bucket="tampered", Key=key, Body=b"other")
    with pytest.raises(IntegrityError, match=f"{key} was changed"):
        versions.fetch(version.id, tmp_path / "out")


def test_a_remote_that_is_down_is_named(dataset: Path, tmp_path: Path, s3_url: str) -> None:
    (tmp_path / "file").write_text("")
    nowhere = [
        DvcVersions(str(tmp_path / "file" / "below")),
        DvcVersions("s3://there-is-no-such-bucket", s3_url),
    ]
    for versions in nowhere:
        with pytest.raises(Unavailable, match=r"cannot publish .*raw with the DVC remote"):
            versions.publish(dataset)
    assert len(files(dataset)) == 3
