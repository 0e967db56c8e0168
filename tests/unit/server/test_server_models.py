"""Which bundles the server loads, and which it refuses with the reason."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server_app import FULL, start

from tidemill.bundle import InputColumn, Manifest, write_manifest
from tidemill.errors import IntegrityError
from tidemill.server import load_model
from tidemill.testing.models import MANIFEST, write_bundle

LIES = {
    "an input is not in the graph": (
        replace(MANIFEST, inputs=(*MANIFEST.inputs, InputColumn("dest", "BYTES", "request"))),
        "'dest' is tensor(string) / None",
    ),
    "an input of the graph is not named": (
        replace(MANIFEST, inputs=MANIFEST.inputs[:-1]),
        "'seats' is None / tensor(float)",
    ),
    "a datatype": (
        replace(MANIFEST, inputs=(InputColumn("sched_minute", "INT64", "request"),)),
        "'sched_minute' is INT64 / tensor(float)",
    ),
    "the output": (replace(MANIFEST, output="score"), "no 'score'"),
    "a feature without a view": (
        replace(MANIFEST, features=replace(MANIFEST.features, views=MANIFEST.features.views[:2])),
        "no view of the feature service holds the inputs ['seats']",
    ),
}


@pytest.mark.parametrize(("manifest", "says"), LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_refused(tmp_path: Path, manifest: Manifest, says: str) -> None:
    write_manifest(write_bundle(tmp_path / "b"), manifest)
    with pytest.raises(IntegrityError, match=re.escape(says)):
        load_model(tmp_path / "b", version="1", threads=1)


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    (bundle / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        load_model(bundle, version="1", threads=1)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_model_may_have_inputs_of_one_type_alone(tmp_path: Path, datatype: str) -> None:
    inputs = tuple(replace(c, origin="request") for c in MANIFEST.inputs if c.datatype == datatype)
    served = start(write_bundle(tmp_path / "b", manifest=replace(MANIFEST, inputs=inputs)))
    answer = served.infer({c.name: FULL[c.name] for c in inputs}, 2)
    assert len(answer.scores) == 2
    assert served.log.close(10) == 0
    assert served.log.counts() == (2, 0)
