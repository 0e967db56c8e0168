"""What each part of the server costs a request, on against off: CPU of all threads, interleaved.

One small model of six inputs, one row, the application alone (no sockets) on uvloop, as in `guard`,
which has keys and tokens; `observability` has traces and the access log. Every round asks all
kinds in turn; a ratio is the median of the rounds' ratios. What settings cannot switch off is
replaced here: counters by ones that count nothing, the deadline by none. TLS is what OpenSSL takes
on the server's side of an open connection: the request decrypted, the answer encrypted; the event
loop's part is not in it.
"""

from __future__ import annotations

import argparse
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from tests.certificates import Authority

from benchmarks.guard import HEADERS, REQUESTS, Ask, ask, encoded, measure, request
from tidemill.server import App, Served
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app

ROUNDS = 15
SETTLE_SECONDS = 0.3
"""Longer than the log's thread takes for a round."""
FLOOR = "nothing of it"
PII = {"carrier": "hash", "origin": "mask"}
KEY = "TIDEMILL_BENCHMARK_HASH_KEY"
ANSWER_BYTES = 400


class Nowhere:
    """An object store that keeps nothing: the disk is not measured."""

    def put(self, key: str, _: bytes | Path) -> str:
        """Forget an object."""
        return key

    def get(self, key: str) -> bytes:
        """Return nothing."""
        raise LookupError(key)

    def list(self, _: str) -> list[str]:
        """Return no keys."""
        return []


def main(*arguments: str) -> None:
    """Print CPU per request of each kind, and its ratio to the request with nothing of it."""
    parser = argparse.ArgumentParser("python -m benchmarks overhead")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args(arguments).rounds
    with tempfile.TemporaryDirectory() as folder, kinds(Path(folder)) as asked:
        spent = measure(asked, rounds, SETTLE_SECONDS)
        tls = handshaken(Path(folder))
    print(f"{rounds} rounds of {REQUESTS:,} requests each; medians of CPU time")
    for name, times in spent.items():
        ratios = [one / floor for one, floor in zip(times, spent[FLOOR], strict=True)]
        print(f"  {name:28s} {median(times) * 1e6:6.1f} µs  {median(ratios):5.2f}x")
    floor = median(spent[FLOOR])
    print(f"  {'TLS, of OpenSSL alone':28s} {tls * 1e6:+6.1f} µs  {1 + tls / floor:5.2f}x")


@contextmanager
def kinds(folder: Path) -> Iterator[dict[str, Ask]]:
    """Yield how to ask once, by kind; ends the prediction logs."""
    os.environ[KEY] = "0123456789abcdef" * 2
    plain = write_bundle(folder / "plain")
    private = write_bundle(folder / "private", manifest=replace(MANIFEST, pii=PII))
    off = {"sample": 0.0}
    made = {
        FLOOR: uncounted(unbounded(application(plain, off))),
        "deadline": uncounted(application(plain, off)),
        "metrics": unbounded(application(plain, off)),
        "prediction log": uncounted(unbounded(application(plain, {}))),
        "prediction log, PII hashed": uncounted(unbounded(application(private, {}))),
        "all of it": application(private, {}),
        "nothing of it, again": uncounted(unbounded(application(plain, off))),
    }
    body = request()
    headers = encoded(HEADERS | {"content-length": str(len(body))})
    yield {name: (lambda app=app: ask(app, headers, body)) for name, (app, _) in made.items()}
    for app, served in made.values():
        served.predictions.close(10)
        app.observer.close()


def application(bundle: Path, log: dict[str, Any]) -> tuple[App, Served]:
    """Return the application; its log makes a file of each round."""
    settings = {"flush_rows": REQUESTS, "hash_key": f"env:{KEY}", **log}
    return make_app(
        bundle,
        ServingSettings(log=settings),
        reader=MemoryOnline(MANIFEST.features.digest, datetime.now(UTC), {}),
        objects=Nowhere(),
        moment=datetime.now(UTC),
    )


def uncounted(made: tuple[App, Served]) -> tuple[App, Served]:
    """Have the model's counters count nothing; the one in flight stays."""
    counters: Any = made[1].counters
    counters.answered = counters.scored = lambda *_: None
    for histogram in (counters.waited, counters.queued, counters.batch_rows):
        histogram.observe = lambda _: None
    return made


def unbounded(made: tuple[App, Served]) -> tuple[App, Served]:
    """Take the deadline away."""
    guard: Any = made[0].guard
    without = nullcontext()
    guard.in_time = lambda *_: without
    return made


def handshaken(folder: Path) -> float:
    """Return the server's CPU seconds per request of an open TLS connection, beside the loop's."""
    cert, key, _ = Authority(folder, "authority").issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(there, back, server_side=True)
    client = trusting.wrap_bio(back, there)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    head = b"".join(b"%b: %b\r\n" % pair for pair in encoded(HEADERS).items())
    sent, answer = head + request(), b"x" * ANSWER_BYTES
    pieces = []
    for _ in range(REQUESTS):
        client.write(sent)
        pieces.append(there.read())
    spent = process_time()
    for piece in pieces:
        there.write(piece)
        server.read(len(sent))
        server.write(answer)
        back.read()
    return (process_time() - spent) / REQUESTS
