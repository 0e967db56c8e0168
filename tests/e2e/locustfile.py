"""Clients of the gateway, for locust: V2 requests at a steady rate, nothing is retried.

`TIDEMILL_LOAD` names a JSON file: the path to post to, and the bodies to send in turn.
"""

from __future__ import annotations

import json
import os
import uuid
from itertools import cycle
from pathlib import Path

from locust import FastHttpUser, constant_throughput, task

LOAD = json.loads(Path(os.environ["TIDEMILL_LOAD"]).read_text())


class Client(FastHttpUser):
    connection_timeout = 10.0
    network_timeout = 10.0
    wait_time = constant_throughput(20)

    def on_start(self) -> None:
        self.bodies = cycle(LOAD["bodies"])

    @task
    def infer(self) -> None:
        body = {"id": uuid.uuid4().hex, **next(self.bodies)}
        with self.client.post(LOAD["path"], json=body, catch_response=True) as answer:
            if answer.status_code != 200 or answer.json()["id"] != body["id"]:
                answer.failure(f"{answer.status_code} {answer.text:.200}")
