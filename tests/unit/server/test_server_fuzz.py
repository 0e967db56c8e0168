"""A short run of the fuzzer; a million inputs: `python -m benchmarks fuzz --inputs 1000000`."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from benchmarks import fuzz as module
from benchmarks.fuzz import WARM_INPUTS, Input, fuzz, mutate, seeds

from tidemill.server import validation

DEEP = {"ok", "wrong_shape", "wrong_length", "unknown_input", "malformed_binary", "missing_input"}


def test_mutated_requests_are_answered_or_refused(tmp_path: Path) -> None:
    report = fuzz(tmp_path, WARM_INPUTS + 5000)
    assert report.findings == []
    assert report.codes.keys() >= DEEP
    assert report.codes["ok"] > 1000
    assert report.codes["malformed_message"] > 100
    assert 5000 < report.calls < 20_000


def test_what_the_server_must_not_do_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, make_app = validation._flat, module.make_app

    def broken(*_: Any) -> Any:
        raise ValueError("planted")

    def broken_once_started(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(validation, "_flat", whole)
        made = make_app(*args, **options)
        monkeypatch.setattr(validation, "_flat", broken)
        return made

    monkeypatch.setattr(module, "make_app", broken_once_started)
    report = fuzz(tmp_path, 500)
    assert report.findings
    number, found = report.findings[0].removeprefix("input ").split(": ", 1)
    assert "500" in found
    again = fuzz(tmp_path / "again", 1, start=int(number))
    assert len(again.findings) == 1


def test_an_input_is_the_same_in_every_run() -> None:
    def made(number: int) -> Input:
        return mutate(Random(number), seeds())

    assert [made(n) for n in range(50)] == [made(n) for n in range(50)]
