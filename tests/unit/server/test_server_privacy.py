"""Private columns: what the log keeps of them, and what no byte of it may hold."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from tests.server_app import FULL, ROW, start

from tidemill.bundle import read_manifest, write_manifest
from tidemill.errors import ConfigError, IntegrityError
from tidemill.server.redaction import Redaction, pseudonym
from tidemill.testing.models import MANIFEST, write_bundle

KEY = "0123456789abcdef0123456789abcdef"


def serve(folder: Path, pii: dict[str, str], **log: Any) -> Any:
    bundle = write_bundle(folder / "bundle")
    write_manifest(bundle, replace(MANIFEST, pii=pii))
    return start(bundle, log={"flush_seconds": 0.02, "sample": 1} | log)


def logged(served: Any) -> tuple[pl.DataFrame, bytes]:
    assert served.log.close(20) == 0
    (content,) = served.objects.kept.values()
    return pl.read_parquet(io.BytesIO(content)), content


def test_without_tags_everything_is_logged(tmp_path: Path) -> None:
    served = serve(tmp_path, {})
    assert served.infer(FULL).status == 200
    frame, _ = logged(served)
    assert frame["carrier"].to_list() == ["UA"]


def test_no_file_of_the_log_holds_a_private_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASHES", KEY)
    tags = {"carrier": "hash", "origin": "mask", "tailnum": "hash", "sched_minute": "drop"}
    served = serve(tmp_path, {**tags, "temp": "mask"}, hash_key="env:HASHES")
    keys = {"tailnum": ["N14228", "", "N14228"], "flight_id": ["f1", "f2", "f3"]}
    private = {"carrier": ["Jane Doe", "", "UA"], "origin": ["Oak Street 7", "JFK", ""]}
    answer = served.infer(ROW | private | keys, rows=3)
    assert answer.status == 200
    frame, content = logged(served)
    for secret in (b"Jane", b"Oak", b"N14228"):
        assert secret not in content
    jane, missing, ua = frame["carrier"].to_list()
    assert (jane, missing, ua) == (pseudonym(KEY, "Jane Doe"), "", pseudonym(KEY, "UA"))
    assert len(jane) == 32
    assert frame["origin"].to_list() == ["***", "***", ""]
    assert frame["tailnum"].to_list()[::2] == [pseudonym(KEY, "N14228")] * 2
    assert frame["temp"].to_list() == [None] * 3
    assert "sched_minute" not in frame.columns
    assert frame["row_id"].to_list() == ["f1", "f2", "f3"]
    assert frame["score"].to_list() == pytest.approx(answer.scores)


def test_a_masked_column_does_not_even_tell_which_values_are_equal(tmp_path: Path) -> None:
    pages = []
    for name, origins in (("a", ["JFK", "LGA", "JFK"]), ("b", ["EWR", "EWR", "EWR"])):
        served = serve(tmp_path / name, {"origin": "mask"})
        keys = {"origin": origins, "tailnum": ["N1", "N2", "N3"], "flight_id": ["1", "2", "3"]}
        assert served.infer(ROW | keys, rows=3).status == 200
        _, content = logged(served)
        (column,) = [
            chunk
            for chunk in map(pq.read_metadata(io.BytesIO(content)).row_group(0).column, range(20))
            if chunk.path_in_schema == "origin"
        ]
        begin = column.dictionary_page_offset
        pages.append(content[begin : begin + column.total_compressed_size])
    assert pages[0] == pages[1]


def test_a_pseudonym_needs_the_key() -> None:
    other = KEY.replace("0", "1")
    assert pseudonym(KEY, "Jane") == pseudonym(KEY, "Jane")
    assert len({pseudonym(KEY, "Jane"), pseudonym(other, "Jane"), pseudonym(KEY, "jane")}) == 3
    assert pseudonym("k" * 200, "Jane") != pseudonym("k" * 201, "Jane")


@pytest.mark.parametrize("key", ["", "short"])
def test_a_hash_without_a_key_keeps_the_server_down(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"serving\.log\.hash_key has \d bytes"):
        Redaction(replace(MANIFEST, pii={"carrier": "hash"}), key)
    with pytest.raises(ConfigError, match="hash_key"):
        serve(tmp_path, {"carrier": "hash"})


@pytest.mark.parametrize("pii", [{"flight_id": "mask"}, {"nothing": "drop"}, {"temp": "hash"}])
def test_what_the_log_cannot_keep_private_keeps_the_server_down(pii: dict[str, str]) -> None:
    with pytest.raises(IntegrityError, match=next(iter(pii))):
        Redaction(replace(MANIFEST, pii=pii), KEY)


def test_the_manifest_of_a_model_without_tags_is_what_it_was(tmp_path: Path) -> None:
    """Bundles keep their digest, older servers read them, and refuse what they would leak."""
    body = json.loads(write_manifest(tmp_path, MANIFEST).read_text())
    assert body["format"] == 1
    assert "pii" not in body
    assert read_manifest(tmp_path) == MANIFEST
    tagged = replace(MANIFEST, pii={"carrier": "mask"})
    body = json.loads(write_manifest(tmp_path, tagged).read_text())
    assert body["format"] == 2
    assert read_manifest(tmp_path) == tagged


@pytest.mark.parametrize("change", [{"format": 3}, {"pii": {"carrier": "blur"}}, {"pii": 7}])
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_manifest(tmp_path, replace(MANIFEST, pii={"carrier": "mask"}))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)
