"""A group of `tidemill`'s commands, run in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tidemill.cli import main

__all__ = ["Line"]


class Line:
    """The command line: what it printed and how it ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str], group: str) -> None:
        self._capsys = capsys
        self._group = group

    def __call__(self, *words: str, code: int = 0) -> tuple[str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([self._group, *words])
        out, err = self._capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json")[0])
