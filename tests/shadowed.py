"""Clients of a model: they never pause, and note who answered."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx
from tests.serving import FULL, body

__all__ = ["QUIET", "asking"]

QUIET = FULL | {"temp": 120.0, "carrier_late_rate_7d": 0.0}
"""A row that the model scores below its threshold; it scores FULL above."""
PAUSE_SECONDS = 0.02


@contextmanager
def asking(
    url: str, clients: int, rows: Sequence[dict[str, Any]] = (FULL, QUIET)
) -> Iterator[Counter[str]]:
    """Ask; yield the number of answers so far by the version that gave them, or `failed`.

    Each client asks for the `rows` in turn; they may be changed while it does.
    """
    stop, answered = Event(), Counter[str]()
    threads = [Thread(target=_ask, args=(url, stop, n, answered, rows)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask(
    url: str, stop: Event, number: int, answered: Counter[str], rows: Sequence[dict[str, Any]]
) -> None:
    with httpx.Client(timeout=10, trust_env=False) as client:
        for n in itertools.count(number):
            if stop.wait(PAUSE_SECONDS):
                return
            now = tuple(rows)
            answer = client.post(url, json=body(now[n % len(now)]))
            if answer.status_code == 200:
                answered[answer.json()["model_version"]] += 1
            else:
                answered["failed"] += 1
                print(f"failed: {answer.status_code} {answer.headers} {answer.text[:300]}")
