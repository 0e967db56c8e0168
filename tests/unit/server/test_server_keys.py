"""API keys: what the file may hold, and who gets in with what it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server_app import INFER, Answer, Running, start

from tidemill.errors import ConfigError, Refused, UsageError
from tidemill.server import Authentication, Keyring, refuse_exposure
from tidemill.server.keys import digest, make_entry, read_keys
from tidemill.settings.serving import ServingSettings

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Time:
    """A clock that stands until it is moved."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)


class Shop:
    """A server with a file of keys."""

    def __init__(self, bundle: Path, folder: Path, **options: Any) -> None:
        self.path = folder / "keys.yaml"
        self.time = Time()
        self.entries: list[dict[str, Any]] = []
        self.infer = self.add("infer", permissions=["infer"])
        self.admin = self.add("admin", permissions=["admin"])
        self.ring = self.keyring()
        self.served: Running = start(bundle, Authentication(self.ring), **options)

    def keyring(self) -> Keyring:
        """What a process of the server holds."""
        counts = self.path.parent / "state" / "quota.db"
        return Keyring(self.path, counts, clock=self.time.monotonic, now=self.time.now)

    def add(self, name: str, **options: Any) -> str:
        token, entry = make_entry(name, **{"permissions": ["infer"]} | options)
        self.entries.append(entry)
        self.write(yaml.safe_dump(self.entries))
        return token

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def ask(self, token: str, path: str = "/v2", method: str = "GET") -> Answer:
        return self.served.ask(path, b"", method, authorization=f"Bearer {token}")


@pytest.fixture
def shop(bundle: Path, tmp_path: Path) -> Shop:
    return Shop(bundle, tmp_path)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body["code"]


def test_without_a_key_only_probes_and_metrics_answer(shop: Shop) -> None:
    model = "/v2/models/flight-delay"
    for path in ("/v2/health/live", "/v2/health/ready", f"{model}/ready", "/metrics"):
        assert shop.served.ask(path, method="GET").status == 200
    for path, method in (("/v2", "GET"), (model, "GET"), (INFER, "POST"), ("/nothing", "GET")):
        answer = shop.served.ask(path, b"", method)
        assert refusal(answer) == (401, "missing_key")
        assert answer.headers[b"www-authenticate"] == b'Bearer realm="tidemill"'
    assert shop.served.metric("tidemill_refused_total", code="missing_key") == 4


@pytest.mark.parametrize(
    "given",
    [
        "Bearer " + "x" * 52,
        "Bearer tidemill_" + "A" * 43,
        "Bearer tidemill_" + "A" * 42,
        "Bearer ",
        "Bearer \udcff",
        "Basic dXNlcjpwYXNz",
    ],
)
def test_what_is_no_key_is_refused(shop: Shop, given: str) -> None:
    sent = given.encode("utf-8", "surrogateescape").decode("latin-1")
    answer = shop.served.ask("/v2", method="GET", authorization=sent)
    assert answer.status == 401
    assert given.partition(" ")[2] not in answer.body["error"] or given == "Bearer "


def test_a_hash_is_no_key(shop: Shop) -> None:
    assert refusal(shop.ask(shop.entries[0]["sha256"])) == (401, "unknown_key")


def test_permissions_are_apart(shop: Shop, bundle: Path, tmp_path: Path) -> None:
    assert shop.ask(shop.infer).status == 200
    answer = shop.ask(shop.admin)
    assert refusal(answer) == (403, "forbidden")
    assert b"insufficient_scope" in answer.headers[b"www-authenticate"]
    closed = Shop(bundle, tmp_path, auth={"open_metrics": False})
    assert refusal(closed.ask(closed.infer, "/metrics")) == (403, "forbidden")
    assert closed.ask(closed.admin, "/metrics").status == 200
    assert closed.served.ask("/metrics", method="GET").status == 401


def test_keys_rotate_while_both_are_active(shop: Shop) -> None:
    fresh = shop.add("infer-2")
    assert refusal(shop.ask(fresh)) == (401, "unknown_key")
    shop.ring.reload()
    assert [shop.ask(token).status for token in (shop.infer, fresh)] == [200, 200]
    shop.entries.pop(0)
    shop.write(yaml.safe_dump(shop.entries))
    shop.ring.reload()
    assert [shop.ask(token).status for token in (shop.infer, fresh)] == [401, 200]


@pytest.mark.parametrize("text", ["- id: [", "keys: {}", "", "- {id: a, sha256: short}"])
def test_a_file_that_is_not_in_order_changes_nothing(shop: Shop, text: str) -> None:
    shop.write(text)
    shop.ring.reload()
    assert shop.ask(shop.infer).status == 200
    shop.path.unlink()
    shop.ring.reload()
    assert shop.ask(shop.infer).status == 200
    with pytest.raises(ConfigError, match=r"keys\.yaml"):
        shop.keyring()


def test_a_key_expires(shop: Shop) -> None:
    token = shop.add("guest", expires=NOON + timedelta(hours=1))
    shop.ring.reload()
    shop.time.seconds = 3599
    assert shop.ask(token).status == 200
    shop.time.seconds = 3600
    assert refusal(shop.ask(token)) == (401, "expired_key")


def test_a_key_has_a_rate_that_a_reload_does_not_refill(shop: Shop) -> None:
    token = shop.add("batch", rate=0.5, burst=3)
    shop.ring.reload()
    assert [shop.ask(token).status for _ in range(4)] == [200, 200, 200, 429]
    shop.add("other")
    shop.ring.reload()
    answer = shop.ask(token)
    assert refusal(answer) == (429, "rate_limited")
    assert answer.headers[b"retry-after"] == b"2"
    assert shop.ask(shop.infer).status == 200
    shop.time.seconds = 2
    assert [shop.ask(token).status for _ in range(2)] == [200, 429]
    assert shop.served.metric("tidemill_refused_total", code="rate_limited") == 3


def test_the_file_holds_no_token_and_its_errors_show_none(tmp_path: Path) -> None:
    token, entry = make_entry("a", permissions=["admin", "infer"], rate=2, expires=NOON)
    assert token not in yaml.safe_dump(entry)
    assert entry["sha256"] == digest(token.encode())
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([entry]))
    (key,) = read_keys(path)
    assert (key.permissions, key.rate, key.expires) == ({"admin", "infer"}, 2, NOON)
    path.write_text(yaml.safe_dump([entry | {"sha256": token}]))
    with pytest.raises(ConfigError, match=r"0\.sha256") as caught:
        read_keys(path)
    assert token not in str(caught.value)


@pytest.mark.parametrize("what", ["id", "sha256"])
def test_nothing_is_there_twice(tmp_path: Path, what: str) -> None:
    first, second = (make_entry(n, permissions=["infer"])[1] for n in "ab")
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([first, second | {what: first[what]}]))
    with pytest.raises(ConfigError, match=f"the {what} '.*' is there twice"):
        read_keys(path)


@pytest.mark.parametrize("options", [{"rate": 0}, {"burst": 0.5}, {"permissions": []}])
def test_options_that_make_no_key(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make_entry("a", **{"permissions": ["infer"]} | options)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_somebody_must_be_asked(host: str) -> None:
    with pytest.raises(Refused, match="no authentication") as caught:
        refuse_exposure(host, ServingSettings())
    assert caught.value.exit_code == 3
    refuse_exposure(host, ServingSettings(auth={"allow_anonymous": True}))
    refuse_exposure(host, ServingSettings(auth={"key_file": "keys.yaml"}))
    refuse_exposure(host, ServingSettings(tls={"cert": "c", "key": "k", "client_ca": "ca"}))
    with pytest.raises(Refused):
        refuse_exposure(host, ServingSettings(tls={"cert": "c", "key": "k"}))
    for local in ("127.0.0.1", "localhost", "::1"):
        refuse_exposure(local, ServingSettings())


def test_a_key_has_a_quota_that_outlives_the_process(shop: Shop, bundle: Path) -> None:
    token = shop.add("trial", quota=2, rate=100, burst=3)
    shop.ring.reload()
    assert [shop.ask(token).status for _ in range(3)] == [200, 200, 429]
    answer = shop.ask(token)
    assert refusal(answer) == (429, "rate_limited")  # the rate is asked first
    shop.time.seconds = 60
    answer = shop.ask(token)
    assert refusal(answer) == (429, "quota_exceeded")
    assert answer.headers[b"retry-after"] == b"%d" % (12 * 3600 - 60)
    assert shop.ask(shop.infer).status == 200
    assert shop.served.metric("tidemill_refused_total", code="quota_exceeded") == 2
    assert shop.ring._quota
    thread = shop.ring._quota.save()
    assert thread
    thread.join()
    again = start(bundle, Authentication(shop.keyring()))
    asked = again.ask("/v2", b"", "GET", authorization=f"Bearer {token}")
    assert refusal(asked) == (429, "quota_exceeded")
    shop.time.seconds = 12 * 3600
    assert shop.ask(token).status == 200
