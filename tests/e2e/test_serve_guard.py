"""The guard of a real `tidemill serve`: keys, load, slow and endless clients, TLS."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509
from tests.certificates import Authority
from tests.serving import FULL, TIDEMILL, Project, Server, body, make_project, wait_until

from tidemill.server import Certificates

pytestmark = pytest.mark.slow

INFER = "/v2/models/flight-delay/infer"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


def set_(**values: Any) -> list[str]:
    """Settings of `serving` as options; `__` stands for a dot."""
    pairs = ((name.replace("__", "."), value) for name, value in values.items())
    return [part for name, value in pairs for part in ("--set", f"serving.{name}={value}")]


def new_key(*options: str) -> tuple[str, dict[str, Any]]:
    command = [str(TIDEMILL), "serve", "key", "new", *options, "--json"]
    made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return made["token"], made["entry"]


def write_keys(project: Project, *entries: dict[str, Any]) -> None:
    fresh = project.root / "keys.new"
    fresh.write_text(yaml.safe_dump(list(entries)))
    fresh.replace(project.root / "keys.yaml")


def ask(server: Server, token: str, path: str = "/v2") -> httpx.Response:
    return httpx.get(server.url + path, headers={"authorization": f"Bearer {token}"})


def test_keys_are_asked_for_and_rotate_without_a_restart(project: Project) -> None:
    first, entry = new_key("shop")
    second, other = new_key("shop-2", "--rate", "0.01", "--burst", "2")
    operator, admin = new_key("operator", "--permission", "admin")
    write_keys(project, entry, admin)
    server = project.serve(*set_(auth__key_file="keys.yaml", auth__open_metrics="false"))
    refused = server.infer(FULL)
    assert refused.status_code == 401
    assert refused.json()["code"] == "missing_key"
    assert refused.headers["www-authenticate"].startswith("Bearer")
    headers = {"authorization": f"Bearer {first}"}
    assert httpx.post(server.url + INFER, json=body(FULL), headers=headers).status_code == 200
    assert ask(server, first, "/metrics").status_code == 403
    assert ask(server, operator).status_code == 403
    assert _refused(ask(server, operator, "/metrics"), "missing_key") == 1
    assert ask(server, second).json()["code"] == "unknown_key"
    write_keys(project, entry, other)
    wait_until(lambda: any(e["event"] == "API keys reloaded" for e in project.events))
    assert [ask(server, token).status_code for token in (first, second, second)] == [200] * 3
    limited = ask(server, second)
    assert limited.status_code == 429
    assert 0 < int(limited.headers["retry-after"]) <= 100
    write_keys(project, entry | {"expires": "2020-01-01T00:00:00Z"})
    wait_until(lambda: ask(server, first).status_code == 401)
    assert ask(server, first).json()["code"] == "expired_key"
    assert ask(server, operator).json()["code"] == "unknown_key"
    assert server.stop() == 0
    assert first not in project.stderr


def test_a_quota_is_shared_by_two_servers_and_outlives_them(project: Project) -> None:
    token, entry = new_key("trial", "--quota", "3")
    write_keys(project, entry)
    keyed = set_(auth__key_file="keys.yaml")
    first = project.serve(*keyed)
    assert [ask(first, token).status_code for _ in range(2)] == [200, 200]
    counts = sqlite3.connect(project.root / ".tidemill" / "quota.db")
    wait_until(lambda: counts.execute("SELECT requests FROM quota").fetchall() == [(2,)])
    counts.close()
    second = project.serve(*keyed)
    assert [ask(second, token).status_code for _ in range(2)] == [200, 429]
    wait_until(lambda: ask(first, token).status_code == 429)
    assert first.stop() == second.stop() == 0
    refused = ask(project.serve(*keyed), token)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 86_400


def test_without_keys_it_refuses_to_listen_beyond_loopback(project: Project) -> None:
    code, said = project.refused("--host", "0.0.0.0")
    assert code == 3
    assert "no authentication" in said
    assert "serving.auth.key_file" in said
    code, said = project.refused(*set_(auth__key_file="absent.yaml"))
    assert code == 2
    assert "absent.yaml cannot be read" in said
    project.serve("--host", "0.0.0.0", *set_(auth__allow_anonymous="true"))
    assert "NO AUTHENTICATION" in project.stderr


def test_a_burst_loses_no_request(project: Project) -> None:
    """The server is stopped while requests arrive on open connections: it finds all at once."""
    server = project.serve(*set_(limits__max_in_flight=4, limits__max_waiting=16))
    content = json.dumps(body(FULL)).encode()
    count = 300

    async def client(number: int, stop: asyncio.Barrier, go: asyncio.Barrier) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection(*_address(server))
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        await _answer(reader)
        await stop.wait()
        await stop.wait()
        writer.write(_post(content[:-1] + b', "id": "%d"}' % number))
        await writer.drain()
        await go.wait()
        head, answer = await _answer(reader)
        writer.close()
        status = int(head.split()[1])
        assert (b"retry-after: 1" in head) == (status == 503)
        return status, answer["id"] if status == 200 else answer["code"]

    async def burst() -> list[tuple[int, str]]:
        stop, go = asyncio.Barrier(count + 1), asyncio.Barrier(count + 1)
        clients = [asyncio.create_task(client(n, stop, go)) for n in range(count)]
        await stop.wait()
        server.process.send_signal(signal.SIGSTOP)
        await stop.wait()
        await go.wait()
        server.process.send_signal(signal.SIGCONT)
        return await asyncio.gather(*clients)

    answers = asyncio.run(burst())
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) == {200, 503}
    assert {code for status, code in answers if status == 503} == {"overloaded"}
    assert _refused(server.get("/metrics"), "overloaded") == statuses[503]
    assert server.infer(FULL, id="after").status_code == 200
    assert server.stop() == 0
    answered = {name for status, name in answers if status == 200}
    assert set(project.log()["request_id"]) == answered | {"after"}


def test_slow_and_endless_clients_are_sent_away(project: Project) -> None:
    limits = {"limits__head_seconds": 0.3, "limits__body_seconds": 0.3}
    server = project.serve(*set_(**limits, limits__max_head_bytes=4096))
    cases = {
        "body that stops": (_post(b"x" * 100)[:-50], 408, "request_timeout"),
        "head that stops": (b"GET /v2 HTTP/1.1\r\nhost: a\r\n", 408, "request_timeout"),
        "only line ends": (b"\r\n", 408, "request_timeout"),
        "large head": (
            b"GET /v2 HTTP/1.1\r\na: " + b"a" * 5000 + b"\r\n\r\n",
            431,
            "head_too_large",
        ),
        "no HTTP": (b"hello\r\n\r\n", 400, "malformed_http"),
    }
    for name, (sent, status, code) in cases.items():
        assert _exchange(server, sent) == (status, code), name
    with socket.create_connection(_address(server), timeout=20) as endless:
        endless.sendall(b"GET /v2 HTTP/1.1\r\na: ")
        sent_bytes = 0
        try:
            while sent_bytes < 50_000_000:
                sent_bytes += endless.send(b"a" * 4096)
        except OSError:
            pass
    assert sent_bytes < 50_000_000
    counted = server.get("/metrics")
    for code, times in (("request_timeout", 3), ("head_too_large", 2), ("malformed_http", 1)):
        assert _refused(counted, code) == times
    assert server.infer(FULL).status_code == 200
    assert server.stop() == 0


def test_an_answer_under_way_outlives_the_refusal_behind_it(project: Project) -> None:
    server = project.serve()
    with socket.create_connection(_address(server), timeout=20) as pipelined:
        pipelined.sendall(_post(json.dumps(body(FULL)).encode()) + b"no HTTP\r\n\r\n")
        received = b"".join(iter(lambda: pipelined.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200")
    assert b'"probability"' in received
    assert server.stop() == 0


def test_tls_takes_a_new_certificate_without_a_restart(project: Project, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    cert, key, serial = authority.issue("server")
    server = _serve_tls(project, *set_(tls__cert=cert, tls__key=key))
    context = ssl.create_default_context(cafile=authority.path)
    with httpx.Client(verify=context, base_url=server.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post(INFER, json=body(FULL)).status_code == 200
        assert _serial(server) == serial
        _, _, renewed = authority.issue("server")
        wait_until(lambda: _serial(server) == renewed)
        assert client.get("/v2").status_code == 200  # its connection outlives the old certificate
    key.write_text("no key")
    wait_until(lambda: "the former one stays" in project.stderr)
    assert _serial(server) == renewed
    assert server.stop() == 0


def test_no_more_connections_are_held_than_may_be_over_tls(
    project: Project, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    cert, key, _ = authority.issue("server")
    most = set_(limits__max_connections=2)
    server = _serve_tls(project, *set_(tls__cert=cert, tls__key=key), *most)
    context = ssl.create_default_context(cafile=authority.path)

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection(_address(server), timeout=20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def ended(client: ssl.SSLSocket) -> bool:
        try:
            return client.recv(1) == b""
        except OSError:
            return True

    with httpx.Client(verify=context, base_url=server.url) as first:
        assert first.get("/v2/health/ready").status_code == 200
        with connect():
            with connect() as beyond:
                assert ended(beyond)
            counted = first.get("/metrics").text.splitlines()
        assert "tidemill_connections_refused_total 1.0" in counted
    assert server.stop() == 0


def test_tls_is_1_2_or_newer(tmp_path: Path) -> None:
    cert, key, _ = Authority(tmp_path, "authority").issue("server")
    made = Certificates(cert, key, None).context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), True)
    assert made.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_mtls_lets_in_who_has_a_certificate(project: Project, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    cert, key, _ = authority.issue("server")
    tls = set_(tls__cert=cert, tls__key=key, tls__client_ca=authority.path)
    server = _serve_tls(project, *tls)
    for issuer, admitted in ((authority, True), (stranger, False), (None, False)):
        context = ssl.create_default_context(cafile=authority.path)
        if issuer:
            context.load_cert_chain(*issuer.issue("client")[:2])
        if admitted:
            assert httpx.get(server.url + "/v2", verify=context).status_code == 200
        else:
            with pytest.raises(httpx.TransportError):
                httpx.get(server.url + "/v2", verify=context)
    assert server.stop() == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mtls_takes_a_new_client_ca_without_a_restart(
    project: Project, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority, old, new = (Authority(tmp_path, name) for name in ("authority", "old", "new"))
    cert, key, _ = authority.issue("server")
    ca = tmp_path / "client_ca.pem"
    ca.write_bytes(old.path.read_bytes())
    server = _serve_tls(project, *set_(tls__cert=cert, tls__key=key, tls__client_ca=ca))
    clients = {}
    for name, issuer in (("old", old), ("new", new)):
        clients[name] = ssl.create_default_context(cafile=authority.path)
        clients[name].maximum_version = version
        clients[name].load_cert_chain(*issuer.issue(f"client of {name}")[:2])

    def admits(name: str, session: ssl.SSLSession | None = None) -> bool:
        try:
            return bool(_ask_tls(server, clients[name], session))
        except OSError:
            return False

    session, _ = _ask_tls(server, clients["old"])
    _, resumed = _ask_tls(server, clients["old"], session)
    assert resumed
    assert not admits("new")
    with httpx.Client(verify=clients["old"], base_url=server.url) as before:
        assert before.get("/v2").status_code == 200
        ca.write_text("no certificate")
        wait_until(lambda: "the former one stays" in project.stderr)
        assert admits("old")
        assert not admits("new")
        ca.write_bytes(new.path.read_bytes())
        wait_until(lambda: admits("new"))
        assert not admits("old")
        assert not admits("old", session)  # nor without a certificate being asked for again
        assert before.get("/v2").status_code == 200  # its connection outlives the old CA
    assert server.stop() == 0


def test_a_key_that_is_not_the_certificates_keeps_it_down(project: Project, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    cert, _, _ = authority.issue("server")
    _, other, _ = authority.issue("other")
    code, said = project.refused(*set_(tls__cert=cert, tls__key=other))
    assert code == 2
    assert "cannot be used" in said


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    return head, json.loads(await reader.readexactly(length))


def _ask_tls(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Ask once; returns a session to resume, and whether the given one was. OSError: refused."""
    with (
        socket.create_connection(_address(server), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure,
    ):
        secure.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        if not b"".join(iter(lambda: secure.recv(65536), b"")).startswith(b"HTTP/1.1 200"):
            raise ConnectionResetError
        return secure.session, secure.session_reused


def _serve_tls(project: Project, *options: str) -> Server:
    process = project.start(*options)
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url.startswith("https://"), project.stderr
    return Server(process, url)


def _serial(server: Server) -> int:
    pem = ssl.get_server_certificate(_address(server))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def _refused(metrics: httpx.Response, code: str) -> float:
    (line,) = [x for x in metrics.text.splitlines() if f'code="{code}"' in x]
    return float(line.rpartition(" ")[2])


def _address(server: Server) -> tuple[str, int]:
    url = httpx.URL(server.url)
    assert url.port
    return url.host, url.port


def _post(content: bytes) -> bytes:
    head = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _exchange(server: Server, sent: bytes) -> tuple[int, str]:
    """Send, and read until the server closes the connection."""
    with socket.create_connection(_address(server), timeout=20) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, content = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(content)["code"]
