"""A real HTTP server process that speaks V2 infer and /metrics: `small_server.py PORT REVISION`.

It fails a share of its requests with 500 (`ERRORS`) or is slow in a share of them (`SLOW`: 20 ms,
its SLO is less), and drains on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

import uvicorn

PORT, REVISION = int(sys.argv[1]), sys.argv[2]
ERRORS, SLOW = (float(os.environ.get(name, "0")) for name in ("ERRORS", "SLOW"))
STARTED = time.time()
METADATA = json.dumps(
    {"inputs": [], "outputs": [{"name": "probability", "datatype": "FP32"}]}
).encode()
counts = {"ok": 0, "error": 0, "slow": 0}
labels = f'model="flight-delay",version="{REVISION[-1]}",revision="{REVISION}"'


def metrics() -> bytes:
    outcomes = ("ok", "error")
    lines = [f'tidemill_requests_total{{{labels},outcome="{k}"}} {counts[k]}' for k in outcomes]
    lines.append(f'tidemill_requests_total{{{labels},outcome="rejected"}} 0')
    lines.append(f"tidemill_slow_total{{{labels}}} {counts['slow']}")
    lines.append(f"tidemill_invalid_total{{{labels}}} 0")
    lines.append(f"tidemill_start_time_seconds{{{labels}}} {STARTED!r}")
    return ("\n".join(lines) + "\n").encode()


async def app(scope, receive, send):
    assert scope["type"] == "http"
    status, body = 200, b"{}"
    if scope["path"] == "/metrics":
        body = metrics()
    elif scope["path"].endswith("/infer"):
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        if random.random() < SLOW:
            counts["slow"] += 1
            await asyncio.sleep(0.02)
        if random.random() < ERRORS:
            status = 500
        counts["ok" if status == 200 else "error"] += 1
        body = json.dumps(
            {
                "id": json.loads(raw)["id"],
                "model_version": REVISION.removeprefix("v"),
                "outputs": [{"name": "probability", "data": [0.5]}],
            }
        ).encode()
    elif scope["path"].count("/") == 3:
        body = METADATA
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        http="httptools",
        lifespan="off",
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
