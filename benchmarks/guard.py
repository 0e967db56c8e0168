"""The server's guard: CPU per request without it, without keys, with a key or a known token.

One small model of six inputs, one row, the application alone (no sockets), on uvloop. Rounds of the
kinds alternate, as the machine's speed drifts. Then what the first sight of a token costs.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import jwt
import uvloop
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tidemill.server import App, Authentication, Keyring, Served, rest
from tidemill.server.guard import Doorkeeper
from tidemill.server.jwks import KeySet
from tidemill.server.keys import make_entry
from tidemill.server.messages import render
from tidemill.server.tokens import Tokens
from tidemill.settings.serving import JwtSettings, ServingSettings
from tidemill.testing import serving as testing
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app

ROUNDS = 31
REQUESTS = 1000
KEYS = 1000
TOKENS = 500
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

SIGNERS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
Ask = Callable[[], Awaitable[Any]]


def main() -> None:
    """Print requests per CPU second, and what the guard adds."""
    with tempfile.TemporaryDirectory() as folder:
        spent = measure(make(Path(folder)))
    seconds = {name: median(times) for name, times in spent.items()}
    floor = seconds["no guard"]
    print(f"{ROUNDS} rounds of {REQUESTS:,} requests each, {KEYS:,} keys; medians of CPU time")
    for name, spent in seconds.items():
        print(
            f"  {name:24s} {1 / spent:8,.0f} requests/s  {spent * 1e6:6.1f} µs"
            f"  {(spent - floor) * 1e6:+5.1f} µs  {floor / spent:5.1%}"
        )
    for algorithm, spent in first_sights().items():
        print(f"  a token's first request, {algorithm:5s} {spent * 1e6:6.1f} µs more")


def make(folder: Path) -> dict[str, Ask]:
    """Return how to ask once, by kind."""
    token, entry = make_entry("asks", permissions=["infer"], rate=1e6)
    counted, quota = make_entry("counted", permissions=["infer"], rate=1e6, quota=10**9)
    others = [make_entry(f"k{n}", permissions=["infer"])[1] for n in range(KEYS - 2)]
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump([*others, entry, quota]))
    bundle = write_bundle(folder / "bundle")
    plain, served = application(bundle, None)
    ring = Keyring(path, folder / "quota.db")
    keyed, _ = application(bundle, Authentication(ring))
    guarded, _ = application(bundle, Authentication(ring, tokens("RS256")))
    body = request()
    bare = encoded(HEADERS | {"content-length": str(len(body))})
    signed = bare | encoded({"authorization": f"Bearer {token}"})
    limited = bare | encoded({"authorization": f"Bearer {counted}"})
    tokened = bare | encoded({"authorization": f"Bearer {issue('RS256')}"})
    return {
        "no guard": lambda: served.inference.answer(lambda: rest.read(body, None), rest.write),
        "HTTP, no keys": lambda: ask(plain, bare, body),
        "HTTP, key with a rate": lambda: ask(keyed, signed, body),
        "HTTP, rate and quota": lambda: ask(keyed, limited, body),
        "HTTP, token known": lambda: ask(guarded, tokened, body),
        "HTTP, no keys, again": lambda: ask(plain, bare, body),
    }


def application(bundle: Path, keys: Doorkeeper | None) -> tuple[App, Served]:
    """Return the application with a log that is never written."""
    return make_app(
        bundle,
        ServingSettings(log={"buffer_rows": 1}),
        reader=MemoryOnline(MANIFEST.features.digest, datetime.now(UTC), {}),
        objects=MemoryObjects(),
        moment=datetime.now(UTC),
        keys=keys,
    )


def tokens(algorithm: str) -> Tokens:
    """Return what checks tokens of `issue`."""
    encoding = jwt.get_algorithm_by_name(algorithm)
    public = encoding.to_jwk(SIGNERS[algorithm].public_key(), as_dict=True)
    document = json.dumps({"keys": [public | {"kid": "k"}]}).encode()
    settings = JwtSettings(jwks="keys.json", audience="models")
    return Tokens(KeySet(lambda: document, refresh_seconds=600), settings)


def issue(algorithm: str, **claims: Any) -> str:
    """Return a token with the usual claims."""
    usual = {"aud": "models", "iss": "https://issuer.example", "sub": "shop", "scope": "infer"}
    expires = {"exp": time.time() + 3600, "iat": time.time()}
    return jwt.encode(usual | expires | claims, SIGNERS[algorithm], algorithm, {"kid": "k"})


def first_sights() -> dict[str, float]:
    """Return the median of CPU seconds of a token's verification, by algorithm."""
    found = {}
    for algorithm in SIGNERS:
        checks = tokens(algorithm)
        spent = []
        for number in range(TOKENS):
            token = issue(algorithm, jti=str(number)).encode()
            start = process_time()
            checks.admit(token, "infer")
            spent.append(process_time() - start)
        found[algorithm] = median(spent)
    return found


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
    response = await testing.ask(app, "POST", PATH, body, headers)
    if response.status != 200:
        raise RuntimeError(f"refused with {response.status}")
    render(response, DATE, closes=False, bodyless=False)


def measure(
    kinds: Mapping[str, Ask], rounds: int = ROUNDS, settle_seconds: float = 0.0
) -> dict[str, list[float]]:
    """Return CPU seconds per request of all threads, of each round, by kind."""
    spent: dict[str, list[float]] = {name: [] for name in kinds}

    async def alternate() -> None:
        for _ in range(rounds):
            for name, once in kinds.items():
                start = process_time()
                for _ in range(REQUESTS):
                    await once()
                await asyncio.sleep(settle_seconds)
                spent[name].append((process_time() - start) / REQUESTS)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(alternate())
    return spent
