"""The access log: what a line holds and what it must not, sampling, and output that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server_app import FULL, INFER, Running, request, start

from tidemill.server import Authentication, Keyring
from tidemill.server.access import AccessLog
from tidemill.server.keys import make_entry
from tidemill.server.trail import Trail
from tidemill.settings.serving import AccessLogSettings
from tidemill.workers.lines import Lines

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines(served: Running, output: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"event":"req')]
    assert all(line.pop("timestamp") and line.pop("ms") > 0 for line in found)
    return found


def test_a_line_names_the_request_and_none_of_its_values(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, entry = make_entry("shop", permissions=["infer"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    ring = Authentication(Keyring(tmp_path / "keys.yaml", tmp_path / "quota.db"))
    served = start(bundle, ring, access_log={"sample": 1.0})
    content = json.dumps(request(FULL, 3) | {"id": "mine"}).encode()
    header = {"authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{'1' * 16}-00"}
    answer = served.ask(INFER, content, **header)
    served.ask("/nothing", method="GET", authorization=f"Bearer {token}")
    served.ask("/v2", method="GET")
    served.app.observer.close()
    output = capsys.readouterr().err
    first, second, third = lines(served, output)
    assert first == {
        "event": "request",
        "method": "POST",
        "path": INFER,
        "status": 200,
        "bytes_in": len(content),
        "bytes_out": len(answer.content),
        "request_id": "mine",
        "trace_id": TRACE,
        "key": "shop",
        "model": "flight-delay",
        "version": "7",
        "rows": 3,
    }
    assert (second["status"], second["code"], second["key"]) == (404, "not_found", "shop")
    assert (third["status"], third["code"], "key" in third) == (401, "missing_key", False)
    assert token not in output
    assert "JFK" not in output


def test_refusals_from_a_status_on_always_have_a_line(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = start(bundle, access_log={"always_from": 400})
    served.infer(FULL)
    served.ask(INFER, b"{}")
    served.app.observer.close()
    (line,) = lines(served, capsys.readouterr().err)
    assert (line["status"], line["code"]) == (400, "invalid_request")


def test_a_sample_is_a_share() -> None:
    kept: list[bytes] = []
    lines = Lines(kept.append)
    log = AccessLog(AccessLogSettings(sample=0.5), lines)
    for _ in range(1000):
        log.append(Trail("GET", "/v2"), 200, 0)
    lines.flush()
    assert 400 < b"".join(kept).count(b"\n") < 600


def test_a_full_disk_behind_standard_error_is_survived(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start(bundle, access_log={"sample": 1.0})
    full = Path("/dev/full").open("w")  # noqa: SIM115 - its end fails too
    monkeypatch.setattr("sys.stderr", full)
    assert served.infer(FULL).status == 200
    served.app.observer.close()
    assert served.infer(FULL).status == 200
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):  # so it was written to
        full.close()


def test_it_is_off_by_default(served: Running) -> None:
    assert served.app.observer.access is None
