"""How the API server is reached, and what its answers become."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from tests.certificates import Authority

from tidemill.adapters.kubernetes import access
from tidemill.adapters.kubernetes.access import connect, namespace
from tidemill.adapters.kubernetes.client import DEPLOYMENTS, ROLLOUTS, Expired, KubeClient, NoKind
from tidemill.errors import ConfigError, Conflict, NotFound, Refused, Unavailable


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"seen": self.headers.get("authorization", "")}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Echo) as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def kubeconfig(folder: Path, server: str, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "config"
    body = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server} | cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(body))
    return path


def seen(path: Path) -> str:
    with connect(path) as http:
        return http.get("/").json()["seen"]


def test_a_token(tmp_path, server):
    assert seen(kubeconfig(tmp_path, server, {"token": "abc"})) == "Bearer abc"


def test_a_token_in_a_file_that_is_replaced(tmp_path, server, monkeypatch):
    monkeypatch.setattr(access, "TOKEN_SECONDS", -1.0)
    (tmp_path / "token").write_text("one\n")
    with connect(kubeconfig(tmp_path, server, {"tokenFile": "token"})) as http:
        assert http.get("/").json()["seen"] == "Bearer one"
        (tmp_path / "token").write_text("two\n")
        assert http.get("/").json()["seen"] == "Bearer two"


def test_a_credential_plugin(tmp_path, server):
    code = (
        "import json, os; info = json.loads(os.environ['KUBERNETES_EXEC_INFO']); "
        "print(json.dumps({'status': {'token': os.environ['WHO'] + info['kind']}}))"
    )
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", code],
        "env": [{"name": "WHO", "value": "me-"}],
    }
    path = kubeconfig(tmp_path, server, {"exec": plugin})
    assert seen(path) == "Bearer me-ExecCredential"
    plugin["args"] = ["-c", "raise SystemExit(1)"]
    with pytest.raises(Unavailable, match="credential plugin"):
        connect(kubeconfig(tmp_path, server, {"exec": plugin}))


def test_nobody(tmp_path, server, monkeypatch):
    path = kubeconfig(tmp_path, server, {})
    monkeypatch.setenv("KUBECONFIG", str(path))
    with connect() as http:
        assert http.get("/").json()["seen"] == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no mapping"),
        ("{", "not YAML"),
        ("clusters: []", "lacks 'contexts'"),
        ("{contexts: [], clusters: [], users: [], current-context: x}", "lacks 'x'"),
    ],
    ids=str,
)
def test_a_file_that_is_none(tmp_path, text, says):
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=f"no kubeconfig.*{says}"):
        connect(tmp_path / "config")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no kubeconfig \S+/absent") as found:
        connect(tmp_path / "absent")
    assert "KUBECONFIG" in found.value.hint


def test_a_certificate_that_is_not_there(tmp_path):
    unsafe = kubeconfig(tmp_path, "https://x", {}, **{"certificate-authority": "absent.pem"})
    with pytest.raises(ConfigError, match="certificate or key"):
        connect(unsafe)


def test_the_namespace_of_the_context(tmp_path, monkeypatch):
    path = kubeconfig(tmp_path, "https://x", {})
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert namespace() == "default"
    body = yaml.safe_load(path.read_text())
    body["contexts"][0]["context"]["namespace"] = "ml"
    path.write_text(yaml.safe_dump(body))
    assert namespace() == "ml"


def test_a_server_that_need_not_prove_itself_is_refused(tmp_path, server):
    unsafe = {"insecure-skip-tls-verify": True}
    with pytest.raises(ConfigError, match="must be known"):
        connect(kubeconfig(tmp_path, server, {}, **unsafe))


def test_inside_a_pod(tmp_path, monkeypatch):
    Authority(tmp_path, "ca").path.rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("pod")
    (tmp_path / "namespace").write_text("ml\n")
    monkeypatch.setattr(access, "POD", tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with connect() as http:
        assert str(http.base_url) == "https://[fd00::1]"
        request = next(http.auth.auth_flow(httpx.Request("GET", "https://x")))
        assert request.headers["authorization"] == "Bearer pod"
    assert namespace() == "ml"


def answering(code: int, **status: Any) -> KubeClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(code, json=status))
    return KubeClient(httpx.Client(transport=transport, base_url="https://x"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (404, NotFound),
        (409, Conflict),
        (410, Expired),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_an_error_becomes(code, error):
    with pytest.raises(error, match=r"deployments/x: because \("):
        answering(code, message="because", details={"name": "x"}).get(DEPLOYMENTS, "ml", "x")


@pytest.mark.parametrize(
    ("resource", "grants"),
    [(ROLLOUTS, "tidemill-rollout-deployer"), (DEPLOYMENTS, "controller")],
    ids=["rollouts", "others"],
)
def test_what_is_forbidden_names_the_role_that_grants_it(resource, grants):
    with pytest.raises(Refused, match="cannot get it") as found:
        answering(403, message="she cannot get it").get(resource, "ml", "x")
    assert grants in found.value.hint


def test_who_is_not_known_is_told_so():
    with pytest.raises(Refused, match="expired") as found:
        answering(401).get(ROLLOUTS, "ml", "x")
    assert "kubectl auth whoami" in found.value.hint


def test_a_kind_that_the_cluster_lacks_is_no_object_that_is_missing():
    with pytest.raises(NoKind, match=r"serving\.tidemill\.dev") as found:
        answering(404, message="404 page not found").get(ROLLOUTS, "ml", "x")
    assert "charts/tidemill/crds" in found.value.hint


def test_a_list_comes_in_pages():
    pages = iter(
        [
            {"metadata": {"continue": "more", "resourceVersion": "7"}, "items": [{"a": 1}]},
            {"metadata": {"resourceVersion": "7"}, "items": [{"a": 2}]},
        ]
    )
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("continue", ""))
        return httpx.Response(200, json=next(pages))

    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="https://x")
    assert KubeClient(http).page(DEPLOYMENTS, "ml", {}) == ([{"a": 1}, {"a": 2}], "7")
    assert asked == ["", "more"]
