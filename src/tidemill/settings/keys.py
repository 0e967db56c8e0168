"""The valid keys at a place of a tree of models, and the closest to one that is none."""

from __future__ import annotations

from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

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
    places: list[Any] = [root]
    for part in loc[:-1]:
        places = _below(places, part) or places
    return [name for model in places if _is_model(model) for name in model.model_fields]


def _below(places: list[Any], part: int | str) -> list[Any]:
    """Return what an element of a location leads to.

    It is a field's name, an entry's key where there is a dictionary or list, or the `type` that
    tells the models of a union apart.
    """
    tagged = [p for p in places if _is_model(p) and part == _tag(p)]
    if tagged and len(places) > 1:
        return tagged
    below: list[Any] = []
    for place in places:
        if not _is_model(place):
            below += _choices(get_args(place)[-1])
        elif field := place.model_fields.get(str(part)):
            below += _choices(field.annotation)
    return below


def _choices(annotation: Any) -> list[Any]:
    """Return the models, dictionaries and lists that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [choice for one in get_args(annotation) for choice in _choices(one)]
    return [annotation] if origin in (dict, list) or _is_model(annotation) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["type"].default if "type" in model.model_fields else None
