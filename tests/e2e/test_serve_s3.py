"""The prediction log of a real server in an S3-compatible store, which goes away and returns."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import polars as pl
import pytest
from tests.serving import FULL, TIDEMILL, Project, make_project, wait_until

pytestmark = pytest.mark.slow

PREFIX = "team/predictions/flight-delay/"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


def stored(s3_url: str) -> pl.DataFrame:
    client = boto3.client("s3", endpoint_url=s3_url)
    listed = client.list_objects_v2(Bucket="predictions", Prefix=PREFIX).get("Contents", [])
    bodies = [client.get_object(Bucket="predictions", Key=o["Key"])["Body"].read() for o in listed]
    return pl.concat([pl.read_parquet(io.BytesIO(body)) for body in bodies])


def test_the_log_is_in_the_bucket_after_an_outage(project: Project, s3_url: str) -> None:
    """The bucket does not exist at first: what cannot be stored waits, answers do not."""
    store = ["--set", "storage.objects=s3://predictions/team"]
    store += ["--set", f"storage.endpoint_url={s3_url}"]
    checked = [str(TIDEMILL), "--project", str(project.root), *store, "serve", "--check", "--json"]
    checked += ["--bundle", str(project.bundle), "--port", "0"]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    (log,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "prediction log"]
    assert (done.returncode, log["state"]) == (1, "fail")
    assert "NoSuchBucket" in log["found"]
    server = project.serve(*store)
    for number in range(3):
        assert server.infer(FULL, id=f"r{number}").status_code == 200
    wait_until(lambda: "the prediction log cannot be stored, will retry" in project.stderr)
    assert server.metric("tidemill_log_rows_total") == 0
    boto3.client("s3", endpoint_url=s3_url).create_bucket(Bucket="predictions")
    wait_until(lambda: server.metric("tidemill_log_rows_total") == 3)
    server.infer(FULL, id="r3")
    assert server.stop() == 0
    assert sorted(stored(s3_url)["request_id"]) == ["r0", "r1", "r2", "r3"]
