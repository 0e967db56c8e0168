"""The server's application with everything around it, in this process."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.server import App, Served
from tidemill.server.guard import Doorkeeper
from tidemill.server.messages import Response
from tidemill.server.predictions import PredictionLog
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, MEANS, SLOPES, VALUES
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import ask, make_app

PATIENT_MS = 10_000.0
"""For a lookup in a test that is not about its deadline, on a machine that does much else."""
INFER = "/v2/models/flight-delay/infer"
NOW = datetime(2013, 4, 1, 12, tzinfo=UTC)
AS_OF = datetime(2013, 4, 1, 9, tzinfo=UTC)
TYPES = {"carrier": "BYTES", "origin": "BYTES", "tailnum": "BYTES", "flight_id": "BYTES"}
ROW = {"sched_minute": 600.0, "carrier": "UA", "origin": "JFK"}
FEATURES = {"carrier_late_rate_7d": 0.5, "temp": 40.0, "seats": 200.0}
FULL = ROW | FEATURES


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def scores(self) -> list[float]:
        (output,) = self.body["outputs"]
        assert output["name"] == "probability"
        assert output["datatype"] == "FP32"
        assert output["shape"] == [len(output["data"])]
        return list(output["data"])


def to_answer(response: Response) -> Answer:
    sent = {b"content-type": response.kind, **response.headers}
    return Answer(response.status, sent, response.body)


@dataclass
class Running:
    """The application with everything around it, in this process."""

    app: App
    served: Served
    online: MemoryOnline
    objects: MemoryObjects

    @property
    def log(self) -> PredictionLog:
        return self.served.predictions

    def ask(
        self,
        path: str,
        content: bytes = b"",
        method: str = "POST",
        pending: int = 0,
        **headers: str,
    ) -> Answer:
        return asyncio.run(self._ask(path, content, method, pending, headers))

    async def _ask(
        self, path: str, content: bytes, method: str, pending: int, headers: dict[str, str]
    ) -> Answer:
        raw = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
        return to_answer(await ask(self.app, method, path, content, raw, pending=pending))

    def infer(self, row: dict[str, Any], rows: int = 1, **more: Any) -> Answer:
        return self.ask(INFER, json.dumps(request(row, rows) | more).encode())

    def metric(self, name: str, **labels: str) -> float:
        text = self.ask("/metrics", method="GET").content.decode()
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        (line,) = [
            x
            for x in text.splitlines()
            if x.startswith(f"{name}{{") and all(w in x for w in wanted)
        ]
        return float(line.rpartition(" ")[2])


def request(row: dict[str, Any], rows: int = 1) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": [rows],
                "datatype": TYPES.get(name, "FP32"),
                "data": value if isinstance(value, list) else [value] * rows,
            }
            for name, value in row.items()
        ]
    }


def expected(row: dict[str, Any], bias: float = -1.0) -> float:
    """The model of `tidemill.testing.models` by hand."""
    filled = {k: MEANS[k] if row.get(k) is None else row[k] for k in MEANS}
    logit = bias + sum((filled[k] - MEANS[k]) * SLOPES[k] for k in MEANS)
    for name, known in VALUES.items():
        logit += 0.1 * (known.index(row[name]) + 1) if row[name] in known else 0
    return 1 / (1 + math.exp(-logit))


def start(
    bundle: Path,
    keys: Doorkeeper | None = None,
    online: MemoryOnline | None = None,
    **options: Any,
) -> Running:
    online = online or MemoryOnline(
        MANIFEST.features.digest,
        AS_OF,
        {
            "carrier_delay": {("UA",): {"carrier_late_rate_7d": 0.5}},
            "origin_weather": {("JFK",): {"temp": 40.0}},
            "plane": {("N1",): {"seats": 200}},
        },
    )
    objects = MemoryObjects()
    app, served = make_app(
        bundle,
        ServingSettings(**({"lookup_deadline_ms": PATIENT_MS} | options)),
        reader=online,
        objects=objects,
        moment=NOW,
        keys=keys,
        version="7",
    )
    return Running(app, served, online, objects)
