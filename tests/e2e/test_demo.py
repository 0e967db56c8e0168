"""The whole loop, as `make demo` plays it, on a machine that reaches nothing but itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import isolation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

DEMO = """
import json, sys
import psutil
from tidemill.cli import main

folder = sys.argv[1]
try:
    main(["demo", "--into", folder])
    code = 0
except SystemExit as stop:
    code = stop.code
me = psutil.Process()
mine = {me.pid, *(parent.pid for parent in me.parents())}
others = [p for p in psutil.process_iter() if p.pid not in mine]
left = [p.cmdline() for p in others if p.status() != psutil.STATUS_ZOMBIE]
json.dump([line for line in left if folder in " ".join(line)], open(folder + ".left", "w"))
sys.exit(code)
"""
"""Plays the demo, then lists what it left running: within the namespace, before that ends."""


@dataclass(frozen=True)
class Played:
    folder: Path
    done: subprocess.CompletedProcess[str]
    attempts: list[str] | None
    """Whom it tried to reach beyond loopback; None where namespaces are not permitted."""

    @property
    def story(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.folder / "demo.json").read_text())
        return body


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("played") / "demo"
    home = tmp_path_factory.mktemp("home")
    keep = ("PATH", "LANG", "LD_LIBRARY_PATH")  # not what tells a tool that this is a test
    env = {name: os.environ[name] for name in keep if name in os.environ} | {"HOME": str(home)}
    argv = [sys.executable, "-c", DEMO, str(folder)]
    if not isolation.obstacle():
        done, attempts = isolation.trap(argv, env=env, timeout=2400)
        return Played(folder, done, attempts)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return Played(folder, done, None)


def test_the_loop_closes(played: Played) -> None:
    assert played.done.returncode == 0, played.done.stdout + played.done.stderr
    titles = [event["title"] for event in played.story["events"]]
    for wanted in (
        r"version \d+ released",
        r"retraining \(concept_drift\): RUN",
        r"version \d+ promoted",
        r"a model is trained on shuffled labels",
        r"version \d+ rolled back",
        r"retraining \(schedule\): RUN",
    ):
        assert any(re.fullmatch(wanted, title) for title in titles), (wanted, titles)


def test_no_request_failed(played: Played) -> None:
    failed, _, requests = played.story["figures"]["failed requests"].partition(" of ")
    assert failed == "0"
    assert int(requests.replace(",", "")) > 10_000


def test_the_account_is_self_contained_and_shows_the_evidence(played: Played) -> None:
    page = (played.folder / "demo.html").read_text()
    outside = set(re.findall(r"(?:src|href)=[\"'](https?:[^\"']+)", page))
    assert outside == set()
    assert page.count("<svg") >= 4
    rolled_back = [c for c in played.story["canaries"] if "rolled back" in c["outcome"]]
    harm = max(max(c["log_e_harm"]) - c["harm_at"] for c in rolled_back)
    assert harm >= 0, "the rollback shows no evidence of harm"


def test_nothing_is_left_running(played: Played) -> None:
    assert json.loads(Path(f"{played.folder}.left").read_text()) == []


def test_nothing_phones_home(played: Played) -> None:
    if played.attempts is None:
        isolation.skip_unless_possible()
    assert played.attempts == []
