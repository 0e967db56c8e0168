"""Clients of the gateway, for locust: one V2 request after the other, nothing is retried."""

from __future__ import annotations

import uuid

from locust import FastHttpUser, task


class Client(FastHttpUser):
    connection_timeout = 10.0
    network_timeout = 10.0

    @task
    def infer(self) -> None:
        row = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
        body = {"id": uuid.uuid4().hex, "inputs": [row]}
        with self.client.post(
            "/v2/models/flight-delay/infer", json=body, catch_response=True
        ) as answer:
            if answer.status_code != 200 or answer.json()["id"] != body["id"]:
                answer.failure(f"{answer.status_code} {answer.text:.200}")
