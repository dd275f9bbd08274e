"""Misspelt and misplaced keys: every key of a config file held against the models that read it.

Ray Serve drops a key that it does not know without a word, so the keys are compared with the fields of its
own pydantic models, found by walking their annotations: what a new Ray adds is known here at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args, get_origin

from pydantic import BaseModel

from clients.commands.document import KeyPath, Problem, dotted


@dataclass(frozen=True)
class Level:
    """What one value may hold: the keys of a mapping, or of each mapping of a list."""

    keys: Mapping[str, Level | None]  # None: any value
    is_list: bool = False
    or_other: bool = False  # what is no mapping may stand here, too


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
    inside = (level(argument, places, gone, path) for argument in _members(annotation))
    first = next((found for found in inside if found is not None), None)
    return Level(first.keys, is_list=True) if first and get_origin(annotation) is list else first


def unknown_keys(data: object, root: Level) -> Iterator[Problem]:
    """Every key that nothing reads, with the nearest valid name or the place where it belongs."""
    yield from _unknown(data, root, (), dict(_places(root, ())))


def close(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed name that this one is nearest to, whatever its case; None when none is near."""
    lower = {one.lower(): one for one in allowed}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`did you mean X?`, or what is allowed when nothing is near."""
    found = close(name, allowed)
    return f"did you mean {found}?" if found else f"allowed: {', '.join(allowed)}"


def _members(annotation: object) -> tuple[object, ...]:
    return () if get_origin(annotation) in (dict, Mapping) else get_args(annotation)


def _unknown(data: object, here: Level, path: KeyPath, places: Mapping[KeyPath, Level]) -> Iterator[Problem]:
    if here.is_list:
        if isinstance(data, list):
            for index, item in enumerate(data):
                if item is None:
                    yield Problem((*path, index), "expected a mapping, got nothing")
                yield from _unknown(item, Level(here.keys), (*path, index), places)
        elif data is not None:
            yield Problem(path, f"expected a list, got {_kind(data)}")
    elif isinstance(data, dict):
        yield from _unknown_in_mapping(data, here, path, places)
    elif data is not None and not here.or_other:
        yield Problem(path, f"expected a mapping, got {_kind(data)}")


def _unknown_in_mapping(
    data: dict[object, object], here: Level, path: KeyPath, places: Mapping[KeyPath, Level]
) -> Iterator[Problem]:
    for key, value in data.items():
        below = (*path, str(key))
        if key not in here.keys:
            yield Problem(below, f"unknown key; {_advice(str(key), here, places)}")
        elif (inner := here.keys[str(key)]) is not None:
            yield from _unknown(value, inner, below, places)


def _advice(key: str, here: Level, places: Mapping[KeyPath, Level]) -> str:
    elsewhere = [_place(path) for path, there in places.items() if key in there.keys]
    if elsewhere:
        return f"belongs under {' or '.join(elsewhere)}"
    everywhere = {name: path for path, there in places.items() for name in there.keys}
    if not close(key, here.keys) and (found := close(key, everywhere, cutoff=0.8)):
        return f"did you mean {found} under {_place(everywhere[found])}?"
    return nearest(key, here.keys)


def _places(here: Level, path: KeyPath) -> Iterator[tuple[KeyPath, Level]]:
    """Every mapping that the file may have."""
    yield path, here
    for key, inner in here.keys.items():
        if inner is not None:
            yield from _places(inner, (*path, key, 0) if inner.is_list else (*path, key))


def _place(path: KeyPath) -> str:
    return dotted(path).replace("[0]", "[]") if path else "the top level"


def _kind(data: object) -> str:
    kinds: dict[type, str] = {list: "a list", dict: "a mapping"}
    return kinds.get(type(data), repr(data))
