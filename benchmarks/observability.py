"""Traces and access log: CPU per request and memory, on against off.

One small model of six inputs, one row, the application alone (no sockets) on uvloop, as in `guard`.
Spans go to a collector that is a process of its own; the CPU of the thread that exports them, and
of the one that writes the lines, is in the figures: each round waits until they are done. Rounds of
the kinds alternate, as the machine's speed drifts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import process_time, sleep
from typing import Any

from benchmarks.guard import HEADERS, PATH, REQUESTS, ask, encoded, measure, request
from tidemill.server import App
from tidemill.server.access import AccessLog
from tidemill.server.observer import Observer
from tidemill.server.trail import Trail
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app
from tidemill.workers.lines import Lines

ROUNDS = 9
FLUSH_SECONDS = 0.25
SETTLE_SECONDS = 0.7
"""Longer than threads take to export and write a round."""

COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
MEMORY = """
import sys
from tidemill import server
from tidemill.server.observer import Observer
from tidemill.settings.serving import ServingSettings
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(l for l in lines if l.startswith("VmRSS")).split()[1])
before = resident()
kept = Observer.of(ServingSettings(traces={"endpoint": sys.argv[1]}))
print((resident() - before) / 1024)
"""


def main() -> None:
    """Print CPU per request of each kind, and what it adds."""
    with collector() as url, tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle")
        body = request()
        plain = {k: v for k, v in HEADERS.items() if k != "traceparent"}
        soon = {"flush_seconds": FLUSH_SECONDS}
        apps = {
            "off": application(bundle),
            "access log, all": application(bundle, access_log={"sample": 1.0}),
            "access log, 1 %": application(bundle, access_log={"sample": 0.01}),
            "traces, none sampled": application(
                bundle, traces={"endpoint": url, "ratio": 0.0, **soon}
            ),
            "traces, 1 %": application(bundle, traces={"endpoint": url, "ratio": 0.01, **soon}),
            "traces, all": application(bundle, traces={"endpoint": url, "ratio": 1.0, **soon}),
            "off, again": application(bundle),
        }
        headers = encoded(plain | {"content-length": str(len(body))})
        kinds = {name: (lambda app=app: ask(app, headers, body)) for name, app in apps.items()}
        seconds = measure(kinds, ROUNDS, SETTLE_SECONDS)
        own = {name: alone(app.observer) for name, app in apps.items()}
        counted = apps["traces, all"].observer
        for app in apps.values():
            app.observer.close()
        memory = subprocess.run(
            [sys.executable, "-c", MEMORY, url], check=True, capture_output=True, text=True
        )
    floors = [sum(pair) / 2 for pair in zip(seconds["off"], seconds["off, again"], strict=True)]
    print("CPU per request; added to the mean of both 'off' of the same round; medians")
    for name, spent in seconds.items():
        added = median(one - floor for one, floor in zip(spent, floors, strict=True))
        print(f"  {name:24s} {median(spent) * 1e6:6.1f} µs  {added * 1e6:+6.1f} µs", end="")
        print(f"  {added / median(floors):+5.0%}   alone {own[name] * 1e6:6.1f} µs")
    exported, lost = counted.traces.counts() if counted.traces else (0, 0)
    print(f"  spans of 'all': {exported:,} exported, {lost:,} lost")
    print(f"  memory that traces add: {float(memory.stdout):.1f} MB")


def alone(observer: Observer) -> float:
    """Return CPU seconds per request of what an observer does, without the request itself."""
    spent: list[float] = []
    for _ in range(ROUNDS):
        start = process_time()
        for _ in range(REQUESTS):
            trail = Trail("POST", PATH)
            observer.trace(trail, {}, "infer")
            with trail.step("predict"):
                pass
            observer.end(trail, 200, 200)
        sleep(SETTLE_SECONDS)
        spent.append((process_time() - start) / REQUESTS)
    return median(spent)


def application(bundle: Path, **options: Any) -> App:
    """Return the application; its lines go to /dev/null, through the same writer."""
    settings = ServingSettings(log={"buffer_rows": 1}, **options)
    app, _ = make_app(
        bundle,
        settings,
        reader=MemoryOnline(MANIFEST.features.digest, datetime.now(UTC), {}),
        objects=MemoryObjects(),
        moment=datetime.now(UTC),
    )
    if app.observer.access is not None:
        out = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115 - as long as the process
        app.observer.access = AccessLog(settings.access_log, Lines(out.write))
    return app


@contextmanager
def collector() -> Iterator[str]:
    """Run a collector that takes everything."""
    with subprocess.Popen(
        [sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        try:
            yield f"http://127.0.0.1:{child.stdout.readline().strip()}/v1/traces"
        finally:
            child.terminate()
