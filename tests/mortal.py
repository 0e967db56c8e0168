"""A controller that dies at any of its steps."""

from __future__ import annotations

from typing import Any

__all__ = ["Fate", "Killed", "Mortal"]


class Killed(BaseException):
    """The process is gone, between two of its steps."""


class Fate:
    """Counts steps down to the one at which the process dies."""

    def __init__(self, dies_at: int) -> None:
        self.left = dies_at

    def step(self, where: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed(where)


class Mortal:
    """A thing through which the controller dies at one call: before it, or after it took effect."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            kinds = [one.kind for one in arguments if hasattr(one, "kind")]
            where = " ".join([name, *kinds, *(one for one in arguments if one == "status")])
            self._fate.step(f"before {where}")
            result = method(*arguments, **options)
            self._fate.step(f"after {where}")
            return result

        return call
