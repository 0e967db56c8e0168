"""A repository folder and the application that serves it, in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from tests.server_app import AS_OF, FULL, NOW, PATIENT_MS, Answer, request, to_answer

from tidemill.server import Served, build_app
from tidemill.server.repository import Repository
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import ask, make_repository

BIASES = {"1": -1.0, "2": 0.0, "10": 1.0}
"""Of the model `late` in the usual shelf, by version; `taxi` has version 7 alone."""


class Broken:
    """A session of ONNX Runtime that fails."""

    def run(self, *_: Any) -> Any:
        raise RuntimeError("a kernel failed in /secret/path")


@dataclass
class Shelf:
    """A folder with bundles, and the application that serves it."""

    folder: Path
    objects: MemoryObjects = field(default_factory=MemoryObjects)
    loads: Counter[tuple[str, str]] = field(default_factory=Counter)
    gate: threading.Event = field(default_factory=threading.Event)
    """Loads wait for it."""

    def put(self, name: str, version: str, bias: float = -1.0, **more: Any) -> None:
        write_bundle(self.folder / name / version, bias=bias, **more)

    def break_(self, name: str, version: str) -> None:
        """Let a loaded model fail at every request."""
        served = self.models.find(name, version)
        assert served
        object.__setattr__(served.inference.model, "session", Broken())

    def spoil(self, name: str, version: str) -> None:
        self.put(name, version)
        (self.folder / name / version / "model.onnx").write_bytes(b"no graph")

    def open(self, online: MemoryOnline | None = None, **options: Any) -> Repository:
        self.gate.set()
        online = online or MemoryOnline(MANIFEST.features.digest, AS_OF, {})
        options = {"log": {"flush_seconds": 0.05}, "lookup_deadline_ms": PATIENT_MS} | options
        self.settings = ServingSettings(**options)
        made = make_repository(
            self.settings,
            reader=online,
            objects=self.objects,
            moment=NOW,
            folder=self.folder,
        )
        load = made._load

        def counted(bundle: Path, version: str, name: str) -> Served:
            self.loads[(name, version)] += 1
            assert self.gate.wait(30)
            return load(bundle, version, name)

        made._load = counted
        self.models = made
        self.app = build_app(made, self.settings)
        self.app.ready = True
        return made

    def run(self, talk: Callable[[], Awaitable[Any]]) -> Any:
        """Hold a conversation with the server, then let it end."""

        async def whole() -> Any:
            answer = await talk()
            if leaving := list(self.models._leaving):
                await asyncio.wait(leaving)
            return answer

        answer = asyncio.run(whole())
        self.models.close()
        return answer

    async def ask(self, path: str, body: Any = None, method: str = "POST") -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        return to_answer(await ask(self.app, method, path, content))

    async def infer(
        self, name: str, version: str = "", row: dict[str, Any] = FULL, **more: Any
    ) -> Answer:
        chosen = f"/versions/{version}" if version else ""
        return await self.ask(f"/v2/models/{name}{chosen}/infer", request(row) | more)

    async def metric(self, name: str, **labels: str) -> float:
        text = (await self.ask("/metrics", method="GET")).content.decode()
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        lines = [x for x in text.splitlines() if x.startswith(f"{name}{{")]
        return sum(float(x.split()[-1]) for x in lines if all(w in x for w in wanted))

    async def order(self, what: str, name: str, version: str = "") -> Answer:
        body = {"parameters": {"version": version}} if version else None
        return await self.ask(f"/v2/repository/models/{name}/{what}", body)

    async def index(self, *, ready: bool = False) -> dict[str, tuple[str, str]]:
        entries = (await self.ask("/v2/repository/index", {"ready": ready})).body
        return {f"{e['name']}/{e['version']}": (e["state"], e["reason"]) for e in entries}

    def logged(self) -> pl.DataFrame:
        files = [pl.read_parquet(BytesIO(content)) for content in self.objects.kept.values()]
        return pl.concat(files)


def version_of(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.body["model_version"])


def code_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body["code"]
