"""What `tidemill rollout judge` takes: memory and CPU at rest, and at twenty questions a second.

The judge's process, real model servers, PostgreSQL as its store: as the chart runs it, but for the
list of a Service's pods. Needs PostgreSQL's server programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

SERVERS = 3
"""Of each arm."""
ATTEMPTS = 20
QUESTIONS_PER_SECOND = 20
SECONDS = 60
ASKING = 8
"""Threads that ask."""


def main() -> None:
    """Print the figures."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.servers import postgres
    from tests.serving import make_project

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        database = stack.enter_context(postgres())
        project = make_project(Path(folder))
        stack.callback(project.close)
        arms = [
            ",".join(project.serve().url.partition("//")[2] for _ in range(SERVERS))
            for _ in ("stable", "canary")
        ]
        _measure(project.root, database, *arms)


def _measure(project: Path, database: str, stable: str, canary: str) -> None:
    from tests.serving import TIDEMILL

    metrics = "[{name: slow, event: slow}, {name: errors, event: error}]"
    sets = [f"storage.database='{database}'", f"rollout.analysis.metrics={metrics}"]
    options = [part for one in sets for part in ("--set", one)]
    command = [str(TIDEMILL), "--project", str(project), *options]
    judge = subprocess.Popen(
        [*command, "rollout", "judge", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert judge.stdout
    url = judge.stdout.readline().split()[-1]
    print(f"load average: {os.getloadavg()[0]:.1f}")
    print(f"started: {_cpu(judge.pid):.1f} CPU s, {_memory(judge.pid)}")
    before = _cpu(judge.pid)
    time.sleep(SECONDS)
    rest = (_cpu(judge.pid) - before) / SECONDS
    print(f"at rest: {rest:.2%} of a core, {_memory(judge.pid)}")
    before, delays = _cpu(judge.pid), _ask(url, stable, canary)
    used = _cpu(judge.pid) - before
    delays.sort()
    middle, most = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(
        f"{len(delays)} questions, {len(delays) / SECONDS:.0f}/s: {used / SECONDS:.0%} of a core,"
        f" {used / len(delays) * 1000:.1f} CPU ms each, {_memory(judge.pid)}"
    )
    print(f"time of an answer: p50 {middle * 1000:.0f} ms, p99 {most * 1000:.0f} ms")
    judge.terminate()
    judge.wait(30)


def _ask(url: str, stable: str, canary: str) -> list[float]:
    """Ask at a steady rate, about one attempt after the other; return how long answers took."""
    began = time.monotonic()

    def ask(number: int) -> float:
        time.sleep(max(0.0, began + number / QUESTIONS_PER_SECOND - time.monotonic()))
        asked = {"attempt": f"a{number % ATTEMPTS}", "weight": 20, "gate": "slow"}
        body = json.dumps(asked | {"stable": stable, "canary": canary})
        at = time.monotonic()
        answer = client.post(f"{url}/v1/judge", content=body)
        answer.raise_for_status()
        assert answer.json()["verdict"] == "undecided" or number < ATTEMPTS * 2, answer.text
        return time.monotonic() - at

    with httpx.Client(trust_env=False, timeout=30) as client, ThreadPoolExecutor(ASKING) as pool:
        return list(pool.map(ask, range(QUESTIONS_PER_SECOND * SECONDS)))


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> str:
    """Return what a process has in memory, and had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return f"{int(sizes['VmRSS']) // 1024} MiB, {int(sizes['VmHWM']) // 1024} MiB at most"


if __name__ == "__main__":
    main()
