"""The images as they are built: each runs as its user, read-only, and holds its own set alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from tests.cluster.access import Cluster
from tests.cluster.images import TESTED, cached, packed_bytes, unpacked_bytes
from tests.cluster.node.images import Image
from tests.cluster.restricted import pod, run
from tests.cluster.workloads import Workloads

from tidemill import __version__, images
from tidemill.telemetry import SWITCHES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK, re.MULTILINE)
}
PACKED = {"serve": 250e6, "pipelines": 200e6}
"""What packages may add to the base, as an image travels: servers and the trigger start often."""
UNPACKED = {
    "serve": 400e6,
    "pipelines": 500e6,
    "control": 670e6,
    "registry": 980e6,
    "features": 1_100e6,
    "monitor": 1_500e6,
    "train": 6_800e6,
}
"""What packages may take on a node: a tenth more than they do, so that growth is a decision."""
ABSENT = {
    "features": {"torch", "mlflow", "evidently"},
    "train": {"feast", "evidently"},
    "serve": {"dvc", "evidently", "feast", "kfp", "mlflow", "pandas", "polars", "sklearn", "torch"},
    "monitor": {"torch", "mlflow", "feast"},
    "control": {"dvc", "evidently", "feast", "mlflow", "pandas", "sklearn", "torch"},
    "pipelines": {"dvc", "evidently", "feast", "mlflow", "onnxruntime", "pandas", "torch"},
    "registry": {"evidently", "feast", "kfp", "torch"},
}
TOOLS = {"pip", "uv", "gcc", "cc", "git"}
LOOK = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil, sys

def refused(folder):
    try:
        pathlib.Path(folder, "trial").write_text("")
    except OSError as error:
        return error.strerror
    return ""

said = json.loads(sys.argv[1])
import tidemill
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.getcwd()],
    "refused": {folder: refused(folder) for folder in said["folders"]},
    "modules": [name for name in said["modules"] if importlib.util.find_spec(name)],
    "tools": [name for name in said["tools"] if shutil.which(name)],
    "packages": {d.name: d.version for d in importlib.metadata.distributions()},
    "environment": dict(os.environ),
    "compiled": pathlib.Path(tidemill.__file__).with_name("__pycache__").is_dir(),
}))
"""
FOLDERS = {
    "/": "Read-only file system",
    "/opt/tidemill": "Read-only file system",
    "/project": "Read-only file system",
    "/project/.tidemill": "",
    "/tmp": "",
}


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> Iterator[str]:
    name = cluster.namespace(enforce="restricted")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def image(node: Workloads, built: Callable[..., dict[str, Image]], request: Any) -> Image:
    name = request.param
    if name not in TESTED and not cached(name):
        pytest.skip(f"not built here: python -m tests.cluster.images {name}")
    found = built(*(TESTED if name in TESTED else (name,)))[name]
    node.add_image(f"images.test/{name}", found)
    return found


@pytest.mark.parametrize("image", images.SETS, indirect=True)
def test_an_image_holds_its_set_and_runs_read_only_as_its_user(
    cluster: Cluster, restricted: str, image: Image, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["image"]
    absent = ABSENT[name]
    asked = {"folders": list(FOLDERS), "modules": sorted(absent | {"pip"}), "tools": sorted(TOOLS)}
    command = ["python", "-c", LOOK, json.dumps(asked)]
    said = run(cluster, restricted, pod(name, f"images.test/{name}", command))
    found = json.loads(said.splitlines()[-1])
    assert found["ids"] == [10001, 10001, "/project"]
    assert found["refused"] == FOLDERS
    assert found["modules"] == []
    assert found["tools"] == []
    assert found["compiled"]
    switches = {switch.variable: switch.value for switch in SWITCHES}
    assert switches.items() <= found["environment"].items()
    held = {canonicalize_name(name): version for name, version in found["packages"].items()}
    assert held.pop("tidemill") == __version__
    assert held.items() <= LOCKED.items()
    assert unpacked_bytes(image) <= UNPACKED[name]


@pytest.mark.parametrize("image", PACKED, indirect=True)
def test_an_image_is_small(image: Image, request: pytest.FixtureRequest) -> None:
    assert packed_bytes(image) <= PACKED[request.node.callspec.params["image"]]
