"""Misspelt and misplaced keys: every key of a config file held against the models that read it.

Ray Serve drops a key that it does not know without a word, so the keys are compared with the fields of its
own pydantic models, found by walking their annotations: what a new Ray adds is known here at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import get_args, get_origin

from pydantic import BaseModel

from clients.commands.document import KeyPath, Problem


@dataclass(frozen=True)
class Level:
    """What one value may hold: the keys of a mapping, or of each mapping of a list."""

    keys: Mapping[str, Level | None]  # None: any value
    is_list: bool = False
    or_other: bool = False  # what is no mapping may stand here, too
    each: Level | None = None  # of a mapping whose keys are names of one's own: what may stand under each
    by_name: Mapping[str, Level] | None = None  # the `name` beside this value says which of them it is


def level(
    annotation: object,
    places: Mapping[KeyPath, Level | None] = MappingProxyType({}),
    gone: Set[KeyPath] = frozenset(),
    path: KeyPath = (),
) -> Level | None:
    """The keys that a value of this type may have; None where any value may stand.

    Args:
        annotation: a pydantic model, or a type that has one inside (`Optional`, `Union`, `List`).
        places: levels for paths whose annotation says only `dict`; indices are left out of the paths.
        gone: paths of fields that the model still has but no file may use.
        path: where the value stands.
    """
    if path in places:
        return places[path]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {
            name: field.annotation for name, field in annotation.model_fields.items() if (*path, name) not in gone
        }
        return Level({name: level(inner, places, gone, (*path, name)) for name, inner in fields.items()})
    inside = (level(argument, places, gone, path) for argument in get_args(annotation))
    first = next((found for found in inside if found is not None), None)
    origin = get_origin(annotation)
    if first and origin in (dict, Mapping):
        return Level({}, each=first)
    return replace(first, is_list=True) if first and origin is list else first


def unknown_keys(data: object, root: Level) -> Iterator[Problem]:
    """Every key that nothing reads, with the nearest valid name or the place where it belongs."""
    yield from _unknown(data, root, (), dict(_places(root, "")))


def close(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed name that this one is nearest to, whatever its case; None when none is near."""
    lower = {one.lower(): one for one in allowed}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`did you mean X?`, or what is allowed when nothing is near."""
    found = close(name, allowed)
    return f"did you mean {found}?" if found else f"allowed: {', '.join(allowed)}"


def _unknown(data: object, here: Level, path: KeyPath, places: Mapping[str, Level]) -> Iterator[Problem]:
    if here.is_list:
        if isinstance(data, list):
            for index, item in enumerate(data):
                if item is None:
                    yield Problem((*path, index), "expected a mapping, got nothing")
                yield from _unknown(item, replace(here, is_list=False), (*path, index), places)
        elif data is not None:
            yield Problem(path, f"expected a list, got {_kind(data)}")
    elif isinstance(data, dict):
        yield from _unknown_in_mapping(data, here, path, places)
    elif data is not None and not here.or_other:
        yield Problem(path, f"expected a mapping, got {_kind(data)}")


def _unknown_in_mapping(
    data: dict[object, object], here: Level, path: KeyPath, places: Mapping[str, Level]
) -> Iterator[Problem]:
    for key, value in data.items():
        below = (*path, str(key))
        inner = here.keys.get(str(key), here.each)
        if inner and inner.by_name:
            inner = inner.by_name.get(str(data.get("name")))
        if key not in here.keys and not here.each:
            yield Problem(below, f"unknown key; {_advice(str(key), here, places)}")
        elif not isinstance(key, str):
            yield Problem(below, f"should be a name, got {key!r}; put it in quotes")
        elif inner:
            yield from _unknown(value, inner, below, places)


def _advice(key: str, here: Level, places: Mapping[str, Level]) -> str:
    elsewhere = [place for place, there in places.items() if key in there.keys]
    if elsewhere:
        return f"belongs under {' or '.join(elsewhere)}"
    everywhere = {name: place for place, there in places.items() for name in there.keys}
    if not close(key, here.keys) and (found := close(key, everywhere, cutoff=0.8)):
        return f"did you mean {found} under {everywhere[found]}?"
    return nearest(key, here.keys)


def _places(here: Level, place: str) -> Iterator[tuple[str, Level]]:
    """Every mapping that the file may have, less those under names of one's own, which repeat others."""
    yield place or "the top level", here
    for key, inner in here.keys.items():
        if inner is not None:
            below = f"{place}.{key}".removeprefix(".")
            yield from _places(inner, f"{below}[]" if inner.is_list else below)
            for name, one in (inner.by_name or {}).items():
                yield from _places(one, f"{place.removesuffix('[]')}[{name}].{key}")


def _kind(data: object) -> str:
    kinds: dict[type, str] = {list: "a list", dict: "a mapping"}
    return kinds.get(type(data), repr(data))
