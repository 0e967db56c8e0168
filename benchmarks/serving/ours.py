"""Our server: a project on disk with a signed bundle, started by `tidemill serve`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serving import mlp
from benchmarks.serving.mlp import Layout
from benchmarks.serving.process import Launch
from tidemill.adapters.online_sqlite import SqliteOnlineStore
from tidemill.adapters.online_store import Filled
from tidemill.adapters.signing import Signer
from tidemill.bundle import FeatureService, InputColumn, write_manifest
from tidemill.server.keys import make_entry
from tidemill.testing.models import MANIFEST, write_profile

__all__ = ["GUARDS", "INPUTS", "LAYOUT", "NO_GUARDS", "launch", "write_key"]

LAYOUT: Layout = mlp.WIDE
INPUTS = tuple(InputColumn(name, "FP32", "request", width=width) for name, width in LAYOUT.items())
ROOT = Path(__file__).parents[2]
NOTHING = FeatureService("nothing", "flights", "sha256:" + "0" * 64, views=())

GUARDS: dict[str, Any] = {"auth": {"key_file": "keys.yaml"}}
"""All else is on by default: limits, validation, prediction log of every row, metrics."""
NO_GUARDS: dict[str, Any] = {"verify": False, "log": {"sample": 0}}
"""What settings can switch off; validation, limits and metrics stay."""

KEY_RATE = 1e6
"""Requests per second: the key's bucket is kept, and refuses none."""
OTHER_KEYS = 99


def launch(folder: Path, serving: dict[str, Any]) -> Launch:
    """Write a project with the settings `serving` and a signed bundle; return its start."""
    project, bundle = folder / "project", folder / "bundle"
    (project / "configs").mkdir(parents=True)
    bundle.mkdir()
    (project / "configs/base.yaml").write_text((ROOT / "configs/base.yaml").read_text())
    (project / "configs/local.yaml").write_text(json.dumps({"serving": serving}))
    mlp.write(bundle / "model.onnx", LAYOUT)
    write_manifest(
        bundle,
        replace(MANIFEST, name=mlp.NAME, inputs=INPUTS, output=mlp.OUTPUT, features=NOTHING),
    )
    write_profile(bundle)
    keys = project / ".tidemill/keys"
    Signer(keys / "signing.pem", keys / "signing.pub").sign(bundle)
    online = project / ".tidemill/feast/online.db"
    online.parent.mkdir()
    online.touch()  # an empty SQLite database
    filled = Filled(datetime.now(UTC), {NOTHING.name: NOTHING.digest})
    SqliteOnlineStore("flights", online).advance(filled)
    command = (str(Path(sys.executable).with_name("tidemill")), "--project", str(project), "serve")
    options = ("--bundle", str(bundle), "--port", "{http}", "--version", "1")
    return Launch((*command, *options), project, {"OMP_NUM_THREADS": "1"})


def write_key(project: Path) -> dict[str, str]:
    """Write a file of keys; return the header that carries the one with a rate."""
    token, entry = make_entry("benchmark", permissions=["infer"], rate=KEY_RATE)
    others = [make_entry(f"other-{i}", permissions=["infer"])[1] for i in range(OTHER_KEYS)]
    (project / "keys.yaml").write_text(yaml.safe_dump([*others, entry]))
    return {"Authorization": f"Bearer {token}"}
