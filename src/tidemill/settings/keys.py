"""The valid keys at a place of a tree of models, and the closest to one that is none."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

__all__ = ["unknown_key"]


def unknown_key(dotted: str, loc: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """Say that `dotted` is no key, with the closest valid one beside it, or all of them.

    `loc` is its location in `root` as pydantic tells it.
    """
    known = _siblings(loc, root)
    close = get_close_matches(str(loc[-1]), known, n=1)
    wanted = f"; did you mean '{close[0]}'?" if close else f" (known: {', '.join(known)})"
    return f"unknown key '{dotted}'{wanted}"


def _siblings(loc: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Return the valid keys beside the last element of a location."""
    models: list[type[BaseModel]] = [root]
    for part in loc[:-1]:
        inner = [f.annotation for m in models if (f := m.model_fields.get(str(part)))]
        tagged = [
            m for m in models if "type" in m.model_fields and m.model_fields["type"].default == part
        ]
        models = [m for a in inner for m in _models(a)] or tagged or models
    return [name for model in models for name in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models(a)]
