"""The server's guard: CPU per request without it, without keys, and with a key that has a rate.

One small model of six inputs, one row, the application alone (no sockets), on uvloop. Rounds of the
three kinds alternate, as the machine's speed drifts.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import uvloop
import yaml

from tidemill.server import App, Keyring, build, load_model
from tidemill.server.keys import make_entry
from tidemill.server.messages import Request, render
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline

ROUNDS = 31
REQUESTS = 1000
KEYS = 1000
VALUES = {"FP32": 1.0, "BYTES": "UA"}
PATH = "/v2/models/flight-delay/infer"
HEADERS = {
    "host": "models.example:8080",
    "user-agent": "python-httpx/0.28",
    "accept": "*/*",
    "content-type": "application/json",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "x-request-id": "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
}

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
Ask = Callable[[], Awaitable[Any]]


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def main() -> None:
    """Print requests per CPU second, and what the guard adds."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = make(Path(folder))
        seconds = measure(kinds)
    floor = seconds["no guard"]
    print(f"{ROUNDS} rounds of {REQUESTS:,} requests each, {KEYS:,} keys; medians of CPU time")
    for name, spent in seconds.items():
        print(
            f"  {name:24s} {1 / spent:8,.0f} requests/s  {spent * 1e6:6.1f} µs"
            f"  {(spent - floor) * 1e6:+5.1f} µs  {floor / spent:5.1%}"
        )


def make(folder: Path) -> dict[str, Ask]:
    """Return how to ask once, by kind."""
    token, entry = make_entry("asks", permissions=["infer"], rate=1e6)
    others = [make_entry(f"k{n}", permissions=["infer"])[1] for n in range(KEYS - 1)]
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump([*others, entry]))
    bundle = write_bundle(folder / "bundle")
    plain, keyed = application(bundle, None), application(bundle, Keyring(path))
    body = request()
    inference = plain._inference
    bare = encoded(HEADERS | {"content-length": str(len(body))})
    signed = bare | encoded({"authorization": f"Bearer {token}"})
    return {
        "no guard": lambda: inference.answer(body),
        "HTTP, no keys": lambda: ask(plain, bare, body),
        "HTTP, key with a rate": lambda: ask(keyed, signed, body),
        "HTTP, no keys, again": lambda: ask(plain, bare, body),
    }


def application(bundle: Path, keys: Keyring | None) -> App:
    """Return the application with a log that is never written."""
    app, _ = build(
        load_model(bundle, version="1", threads=1),
        ServingSettings(log={"buffer_rows": 1}),
        reader=MemoryOnline(MANIFEST.features.digest, datetime.now(UTC), {}),
        objects=MemoryObjects(),
        clock=_Clock(),
        keys=keys,
    )
    return app


def request() -> bytes:
    """Return a request of one row with every input."""
    tensors = [
        {"name": c.name, "datatype": c.datatype, "shape": [1], "data": [VALUES[c.datatype]]}
        for c in MANIFEST.inputs
    ]
    return json.dumps({"inputs": tensors}).encode()


def encoded(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return headers as they arrive in the application."""
    return {name.encode(): value.encode() for name, value in headers.items()}


async def ask(app: App, headers: Mapping[bytes, bytes], body: bytes) -> None:
    """Send one request as a connection does; raises RuntimeError when it is refused."""
    sent = Request()
    sent.method, sent.path, sent.headers, sent.body = "POST", PATH, dict(headers), body
    app.admit(sent, 0)
    response = await app.answer(sent)
    if response.status != 200:
        raise RuntimeError(f"refused with {response.status}")
    render(response, DATE, closes=False, bodyless=False)


def measure(kinds: Mapping[str, Ask]) -> dict[str, float]:
    """Return the median of CPU seconds per request, by kind."""
    spent: dict[str, list[float]] = {name: [] for name in kinds}

    async def rounds() -> None:
        for _ in range(ROUNDS):
            for name, once in kinds.items():
                start = process_time()
                for _ in range(REQUESTS):
                    await once()
                spent[name].append((process_time() - start) / REQUESTS)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(rounds())
    return {name: median(times) for name, times in spent.items()}
