"""Clients of a model that is shadowed: they never pause, and note who answered."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import httpx
from tests.serving import FULL, body

__all__ = ["asking"]

QUIET = FULL | {"temp": 120.0, "carrier_late_rate_7d": 0.0}
"""A row that the model scores below its threshold; it scores FULL above."""
PAUSE_SECONDS = 0.02


@contextmanager
def asking(url: str, clients: int) -> Iterator[Counter[str]]:
    """Ask; yield the number of answers so far by the version that gave them, or `failed`."""
    stop, answered = Event(), Counter[str]()
    threads = [Thread(target=_ask, args=(url, stop, n, answered)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask(url: str, stop: Event, number: int, answered: Counter[str]) -> None:
    with httpx.Client(timeout=10, trust_env=False) as client:
        for n in itertools.count(number):
            if stop.wait(PAUSE_SECONDS):
                return
            answer = client.post(url, json=body(FULL if n % 2 else QUIET))
            if answer.status_code == 200:
                answered[answer.json()["model_version"]] += 1
            else:
                answered["failed"] += 1
                print(f"failed: {answer.status_code} {answer.headers} {answer.text[:300]}")
