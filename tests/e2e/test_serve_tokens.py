"""Tokens at a real `tidemill serve`: an issuer behind TLS that rotates its keys and goes away."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from tests.certificates import Authority
from tests.issuers import ISSUER, Issuer
from tests.servers import free_port
from tests.serving import FULL, Project, Server, body, make_project, wait_until

pytestmark = pytest.mark.slow

INFER = "/v2/models/flight-delay/infer"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


@contextmanager
def published(issuer: Issuer, authority: Authority) -> Iterator[str]:
    """Serve an issuer's key set over HTTPS and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(issuer.jwks)))
            self.end_headers()
            self.wfile.write(issuer.jwks)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("issuer")[:2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def options(jwks: str | Path) -> list[str]:
    values = {"jwks": jwks, "audience": "models", "issuer": ISSUER}
    pairs = [f"serving.auth.jwt.{name}={value}" for name, value in values.items()]
    return [part for pair in pairs for part in ("--set", pair)]


def ask(server: Server, token: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(server.url + INFER, json=body(FULL), headers=headers)


def test_an_issuer_rotates_its_keys_and_goes_away(project: Project, tmp_path: Path) -> None:
    issuer, authority = Issuer("RS256"), Authority(tmp_path, "authority")
    trusting = {"SSL_CERT_FILE": str(authority.path), "NO_PROXY": "127.0.0.1"}
    with published(issuer, authority) as address:
        server = project.serve(*options(address), env=trusting)
        assert ask(server, issuer.token("rs256")).status_code == 200
        assert ask(server, issuer.token("rs256", aud="other")).json()["code"] == "invalid_token"
        assert ask(server, issuer.token("rs256", scope="admin")).status_code == 403
        issuer.add("next", "EdDSA")
        wait_until(lambda: ask(server, issuer.token("next")).status_code == 200)
    issuer.add("unpublished")
    assert ask(server, issuer.token("unpublished")).status_code == 401
    wait_until(lambda: "the former stays" in project.stderr)
    assert ask(server, issuer.token("next")).status_code == 200
    assert server.stop() == 0
    assert "eyJ" not in project.stderr  # no token in the log


def test_a_file_of_keys_is_read_again(project: Project, tmp_path: Path) -> None:
    issuer = Issuer()
    (project.root / "jwks.json").write_bytes(issuer.jwks)
    server = project.serve(*options("jwks.json"))
    withdrawn = issuer.token()
    assert ask(server, withdrawn).status_code == 200
    issuer.add("next")
    del issuer.keys["es256"]
    (project.root / "jwks.json").write_bytes(issuer.jwks)
    wait_until(lambda: ask(server, withdrawn).status_code == 401)
    assert ask(server, issuer.token("next")).status_code == 200
    assert server.stop() == 0


def test_without_a_key_set_it_does_not_start(project: Project) -> None:
    code, said = project.refused(*options("absent.json"))
    assert code == 2
    assert "absent.json cannot be read" in said
    nowhere = f"https://127.0.0.1:{free_port()}/jwks"
    code, said = project.refused(*options(nowhere))
    assert code == 1
    assert f"{nowhere} did not answer" in said
