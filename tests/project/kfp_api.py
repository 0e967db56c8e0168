"""A Kubeflow Pipelines API with scripted runs: the shape of the API, not a backend's behaviour.

Serves the requests that `tidemill.adapters.kfp.backend` makes, by default on loopback. A body
with a field that the API's own models do not know is refused with 400, as the real server does.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import kfp_server_api as api

__all__ = ["FakeKfp"]

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeKfp:
    """The server; use it as a context manager."""

    script: Sequence[str] = ("RUNNING", "SUCCEEDED")
    """States of a run at its first, second, … look; the last one stays."""
    failing: str = ""
    """Step that fails when a run does."""
    token: str = ""
    """Bearer token that every request must carry."""
    host: str = "127.0.0.1"
    port: int = 0
    """Where it listens; port 0 is a free one."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    recorded: dict[str, str] = field(default_factory=dict)
    """Answers by path that are given as they are, in place of those made here."""
    down: set[str] = field(default_factory=set)
    """Paths that are answered with 503."""

    def __enter__(self) -> FakeKfp:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer((self.host, self.port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.host}:{self._server.server_port}"

    def look(self, run_id: str) -> dict[str, Any]:
        """Return a run in the next state of the script."""
        run = self.runs[run_id]
        if run["state"] not in ("SUCCEEDED", "FAILED", "CANCELED"):
            run["state"] = self.script[min(self.looks[run_id], len(self.script) - 1)]
        self.looks[run_id] += 1
        return run | {"run_details": {"task_details": self._tasks(run)}}

    def _tasks(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        tasks = []
        spec = run["pipeline_spec"]["pipeline_spec"]
        graphs = [spec["root"], *(c for c in spec["components"].values() if "dag" in c)]
        # Groups (exit handlers, conditions) are tasks too, as in a backend's answer.
        for at, name in enumerate(task for graph in graphs for task in graph["dag"]["tasks"]):
            task = {
                "run_id": run["run_id"],
                "task_id": name,
                "display_name": name,
                "state": self._state_of(run, name),
                "start_time": (START + timedelta(seconds=10 * at)).isoformat(),
                "end_time": (START + timedelta(seconds=10 * at + 7)).isoformat(),
                "child_tasks": [{"pod_name": f"pod-{name}"}],
            }
            if task["state"] == "RUNNING":
                task["end_time"] = "0001-01-01T00:00:00Z"
            tasks.append(task)
        return tasks

    def _state_of(self, run: dict[str, Any], name: str) -> str:
        if run["state"] == "FAILED":
            return "FAILED" if name == self.failing else "SUCCEEDED"
        return str(run["state"])


class _Handler(BaseHTTPRequestHandler):
    fake: ClassVar[FakeKfp]

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if self._refused():
            return
        if url.path in self.fake.down:
            self._answer({"code": 14, "message": "the archive is down"}, 503)
        elif url.path in self.fake.recorded:
            self._answer(self.fake.recorded[url.path])
        elif url.path == "/apis/v2beta1/experiments":
            wanted = json.loads(parse_qs(url.query)["filter"][0])["predicates"][0]["stringValue"]
            found = [e for e in self.fake.experiments.values() if e["display_name"] == wanted]
            self._answer({"experiments": found})
        elif match := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", url.path):
            self._answer(f"log of {match[2]}\n")
        elif run_id := self._run_of(url.path):
            self._answer(self.fake.look(run_id))

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        if self._refused():
            return
        if path == "/apis/v2beta1/experiments":
            self._create(json.loads(text), api.V2beta1Experiment, "experiment_id")
        elif path == "/apis/v2beta1/runs":
            self._create(json.loads(text), api.V2beta1Run, "run_id")
        elif run_id := self._run_of(path.rpartition(":")[0]):
            verb = path.rpartition(":")[2]
            if verb == "retry" and self.fake.runs[run_id]["state"] not in ("FAILED", "CANCELED"):
                self._answer({"code": 9, "message": "only a failed run can be retried"}, 400)
                return
            self.fake.runs[run_id]["state"] = "CANCELED" if verb == "terminate" else "RUNNING"
            self.fake.looks[run_id] = 0
            self._answer({})

    def _create(self, body: dict[str, Any], model: Any, key: str) -> None:
        unknown = set(body) - set(model.attribute_map.values())
        if unknown:
            self._answer({"code": 3, "message": f"unknown field {sorted(unknown)}"}, 400)
            return
        kept = self.fake.runs if key == "run_id" else self.fake.experiments
        name = f"{key[:3]}-{len(kept) + 1}"
        body |= {key: name, "created_at": START.isoformat(), "state": "PENDING"}
        if key != "run_id":
            del body["state"]
        kept[name] = body
        self.fake.looks[name] = 0
        self._answer(body)

    def _run_of(self, path: str) -> str:
        run_id = path.removeprefix("/apis/v2beta1/runs/")
        if run_id in self.fake.runs:
            return run_id
        self._answer({"code": 5, "message": f"run {run_id} not found"}, 404)
        return ""

    def _refused(self) -> bool:
        if self.headers.get("Authorization", "") == (
            f"Bearer {self.fake.token}" * bool(self.fake.token)
        ):
            return False
        self._answer({"code": 16, "message": "request unauthenticated"}, 401)
        return True

    def _answer(self, body: object, status: int = 200) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        kind = "text/plain" if isinstance(body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
