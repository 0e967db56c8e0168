"""`tidemill serve --repository` as a process: signed bundles come and go while it answers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest
from tests.serving import FULL, Project, Server, body, make_project, wait_until

from tidemill.adapters.signing import Signer
from tidemill.testing.models import write_bundle

pytestmark = pytest.mark.slow

INFER = "/v2/models/late/infer"


class Shelf:
    """A project with a repository folder."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder = project.root / "models"
        keys = project.root / ".tidemill/keys"
        self.signer = Signer(keys / "signing.pem", keys / "signing.pub")

    def put(self, version: str, bias: float) -> None:
        """Add a signed bundle, whole at once as `registry fetch` does."""
        made = write_bundle(self.project.root / "made", bias=bias)
        self.signer.sign(made)
        place = self.folder / "late" / version
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)

    def serve(self, *options: str) -> Server:
        process = self.project.start(*options, repository=self.folder)
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), self.project.stderr
        server = Server(process, url)
        wait_until(lambda: server.get("/v2/health/ready").status_code == 200)
        return server

    def log(self) -> pl.DataFrame:
        files = sorted((self.project.root / ".tidemill/objects/predictions").rglob("*.parquet"))
        return pl.concat([pl.read_parquet(file) for file in files])


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    project = make_project(tmp_path)
    yield Shelf(project)
    project.close()


def order(server: Server, what: str, version: str) -> int:
    path = f"/v2/repository/models/late/{what}"
    answer = httpx.post(server.url + path, json={"parameters": {"version": version}}, timeout=30)
    return answer.status_code


def states(server: Server) -> dict[str, str]:
    index = httpx.post(f"{server.url}/v2/repository/index").json()
    return {entry["version"]: entry["state"] for entry in index}


def test_versions_come_and_go_under_load_and_nothing_fails(shelf: Shelf) -> None:
    shelf.put("1", -1.0)
    server = shelf.serve("--set", "serving.model_memory_mb=9")
    answered: dict[str, str] = {}
    failures: list[str] = []
    done = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as asks:
            turn = 0
            while not done.is_set():
                turn += 1
                name = f"{number}-{turn}"
                answer = asks.post(INFER, json=body(FULL) | {"id": name})
                if answer.status_code != 200:
                    failures.append(answer.text)
                else:
                    answered[name] = answer.json()["model_version"]

    clients = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for thread in clients:
        thread.start()
    try:
        for version in ("2", "3", "3"):
            shelf.put(version, float(version))
            assert order(server, "load", version) == 200
            wait_until(lambda version=version: version in answered.values())
        assert order(server, "unload", "3") == 200
        after = len(answered)
        wait_until(lambda: len(answered) > after + 20)
    finally:
        done.set()
        for thread in clients:
            thread.join(30)
    assert states(server) == {"1": "UNAVAILABLE", "2": "READY", "3": "UNAVAILABLE"}
    assert server.stop() == 0
    assert failures == []
    assert set(answered.values()) == {"1", "2", "3"}
    log = shelf.log()
    assert dict(zip(log["request_id"], log["version"], strict=True)) == answered


def test_an_unsigned_bundle_in_the_folder_is_left_out(shelf: Shelf) -> None:
    shelf.put("1", -1.0)
    shelf.put("2", 0.0)
    (shelf.folder / "late/2/model.sig").unlink()
    server = shelf.serve()
    assert httpx.post(server.url + INFER, json=body(FULL)).json()["model_version"] == "1"
    named = httpx.post(f"{server.url}/v2/models/late/versions/2/infer", json=body(FULL))
    assert (named.json()["model_version"], named.json()["parameters"]["fallback"]) == (
        "1",
        "version 1",
    )
    assert order(server, "load", "2") == 503
    assert "is not signed" in shelf.project.stderr
    assert "is not signed" not in named.text
    assert server.stop() == 0
