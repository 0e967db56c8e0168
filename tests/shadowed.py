"""Clients of a model: they never pause, and note who answered."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread
from typing import Any

import httpx
from tests.serving import FULL, body

__all__ = ["QUIET", "Connect", "asking", "over_http"]

QUIET = FULL | {"temp": 120.0, "carrier_late_rate_7d": 0.0}
"""A row that the model scores below its threshold; it scores FULL above."""
PAUSE_SECONDS = 0.02


Connect = Callable[[], AbstractContextManager[Callable[[dict[str, Any]], str]]]
"""Opens a client's connection: it asks for a row, and returns the version that answered."""


@contextmanager
def asking(
    connect: Connect, clients: int, rows: Sequence[dict[str, Any]] = (FULL, QUIET)
) -> Iterator[Counter[str]]:
    """Ask; yield the number of answers so far by the version that gave them, or `failed`.

    Each client asks for the `rows` in turn; they may be changed while it does.
    """
    stop, answered = Event(), Counter[str]()
    threads = [Thread(target=_ask, args=(connect, stop, n, answered, rows)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def over_http(url: str) -> Connect:
    """Ask by JSON; `url` is that of the model's `infer`."""

    @contextmanager
    def connect() -> Iterator[Callable[[dict[str, Any]], str]]:
        with httpx.Client(timeout=10, trust_env=False) as client:
            yield lambda row: _version(client.post(url, json=body(row)))

    return connect


def _version(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        return str(answer.json()["model_version"])
    print(f"failed: {answer.status_code} {answer.headers} {answer.text[:300]}")
    return "failed"


def _ask(
    connect: Connect,
    stop: Event,
    number: int,
    answered: Counter[str],
    rows: Sequence[dict[str, Any]],
) -> None:
    with connect() as ask:
        for n in itertools.count(number):
            if stop.wait(PAUSE_SECONDS):
                return
            now = tuple(rows)
            answered[ask(now[n % len(now)])] += 1
