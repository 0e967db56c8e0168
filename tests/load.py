"""Clients in threads that ask until a server takes no more."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

__all__ = ["Load"]


@dataclass
class Load(ABC):
    """What clients saw."""

    target: str
    threads: list[threading.Thread] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def start(self, clients: int) -> None:
        for number in range(clients):
            thread = threading.Thread(target=self._client, args=(number,))
            self.threads.append(thread)
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)

    @abstractmethod
    def _client(self, number: int) -> None:
        """Ask until the server takes no more; `number` tells this client from the others."""
