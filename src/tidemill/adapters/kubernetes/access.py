"""How the API server is reached: from inside a pod, or by a kubeconfig."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tidemill.errors import ConfigError, Unavailable

__all__ = ["connect", "namespace"]

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0
"""A mounted token is read again after this long; the kubelet replaces it well before it expires."""
LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16)


class _Token(httpx.Auth):
    """A bearer token in a file that is replaced while we run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = -TOKEN_SECONDS
        self._token = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if time.monotonic() - self._read_at > TOKEN_SECONDS:
            self._token, self._read_at = self._path.read_text().strip(), time.monotonic()
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


class _Fixed(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


def connect(kubeconfig: Path | None = None) -> httpx.Client:
    """Return a client of the API server.

    In a pod with a service account that is its own cluster's; else the current context of
    `kubeconfig`, by default the file that KUBECONFIG names, or ~/.kube/config. Raises ConfigError.
    """
    if kubeconfig is None and "KUBECONFIG" not in os.environ and (POD / "token").exists():
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        trust = ssl.create_default_context(cafile=str(POD / "ca.crt"))
        bracketed = f"[{host}]" if ":" in host else host
        return _client(f"https://{bracketed}:{port}", trust, _Token(POD / "token"))
    path = kubeconfig or _kubeconfig()
    cluster, user = _context(path)
    user = user | (_plugin(user["exec"]) if "exec" in user else {})
    try:
        trust = _trust(cluster, user, path.parent)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"a certificate or key of the kubeconfig {path} cannot be used: {error}",
            hint="does kubectl get ns work?",
        ) from error
    token = user.get("token", "")
    if "tokenFile" in user:
        return _client(cluster["server"], trust, _Token(path.parent / user["tokenFile"]))
    return _client(cluster["server"], trust, _Fixed(token) if token else None)


def namespace() -> str:
    """Return the namespace of the pod that we run in, or of the kubeconfig's current context.

    `default` when neither says one.
    """
    mounted = POD / "namespace"
    if "KUBECONFIG" not in os.environ and mounted.exists():
        return mounted.read_text().strip()
    body = _read(_kubeconfig())
    for entry in body.get("contexts") or []:
        if entry["name"] == body.get("current-context"):
            return str(entry["context"].get("namespace", "default"))
    return "default"


def _kubeconfig() -> Path:
    """Return the file that KUBECONFIG names first, or ~/.kube/config."""
    default = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return Path(default.split(os.pathsep)[0])


def _client(server: str, trust: ssl.SSLContext, auth: httpx.Auth | None) -> httpx.Client:
    return httpx.Client(
        base_url=server, verify=trust, auth=auth, timeout=10.0, limits=LIMITS, trust_env=False
    )


def _context(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return cluster and user of the current context."""
    body = _read(path)
    try:
        named = {
            part: {entry["name"]: entry[part[:-1]] for entry in body[part]}
            for part in ("contexts", "clusters", "users")
        }
        context = named["contexts"][body["current-context"]]
        return named["clusters"][context["cluster"]], named["users"][context["user"]] or {}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no kubeconfig with a current context, it lacks {error}",
            hint="kubectl config get-contexts, then: kubectl config use-context NAME",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read a kubeconfig."""
    hint = "set KUBECONFIG to the file of your cluster, then: kubectl config current-context"
    try:
        body = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no kubeconfig {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the kubeconfig {path} cannot be read", hint=hint) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no kubeconfig: it is not YAML", hint=hint) from error
    if not isinstance(body, dict):
        raise ConfigError(f"{path} is no kubeconfig: it holds no mapping", hint=hint)
    return body


def _trust(cluster: dict[str, Any], user: dict[str, Any], base: Path) -> ssl.SSLContext:
    """Trust the cluster's authority and present the user's certificate, if there is one."""
    authority = _content(cluster, "certificate-authority", base)
    trust = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        raise ConfigError(
            "the kubeconfig says insecure-skip-tls-verify: the API server must be known",
            hint="give it certificate-authority instead",
        )
    certificate = _content(user, "client-certificate", base)
    if certificate:
        # The ssl module loads a client's certificate from a file alone.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + _content(user, "client-key", base))
            file.flush()
            trust.load_cert_chain(file.name)
    return trust


def _content(entry: dict[str, Any], name: str, base: Path) -> bytes:
    """Return what is inline or in the file that is named."""
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"])
    return (base / entry[name]).read_bytes() if name in entry else b""


def _plugin(spec: dict[str, Any]) -> dict[str, Any]:
    """Ask a credential plugin (client.authentication.k8s.io), as clouds have them."""
    extra = {entry["name"]: entry["value"] for entry in spec.get("env") or []}
    info = json.dumps({"apiVersion": spec["apiVersion"], "kind": "ExecCredential", "spec": {}})
    try:
        done = subprocess.run(
            [spec["command"], *(spec.get("args") or [])],
            env=os.environ | extra | {"KUBERNETES_EXEC_INFO": info},
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        )
        status: dict[str, str] = json.loads(done.stdout)["status"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise Unavailable(
            f"the credential plugin {spec['command']} failed: {error!r}",
            hint="does kubectl get ns work?",
        ) from error
    found: dict[str, Any] = {"token": status["token"]} if "token" in status else {}
    for name, key in (
        ("client-certificate", "clientCertificateData"),
        ("client-key", "clientKeyData"),
    ):
        if key in status:
            found[f"{name}-data"] = base64.b64encode(status[key].encode()).decode()
    return found
