"""Values of the wrong type or out of range: pydantic's errors as one short line for each value of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

from pydantic import BaseModel, ValidationError

from clients.commands.document import KeyPath, Problem

BARE_WORDS = "; YAML reads a bare off, on, yes or no as a boolean, so put it in quotes"
STUMBLES = (AttributeError, ImportError, TypeError)


def wrong_values(model: type[BaseModel], value: object, path: KeyPath = ()) -> Iterator[Problem]:
    """What `model` refuses in `value`, which stands at `path` of the file."""
    try:
        # As JSON: strict about a quoted number, lenient about an enum's name; dates are the one type it lacks.
        model.model_validate_json(json.dumps(value, default=str, skipkeys=True), strict=True)
    except ValidationError as error:
        yield from _readable(error, value, path)
    except STUMBLES:
        return  # Serve's validators stumble over a string for a mapping; another question has named it, or `stumble`


def stumble(model: type[BaseModel], value: object) -> Iterator[Problem]:
    """That a validator of `model` fails in other than pydantic's way: for when nothing else says what is wrong."""
    try:
        model.model_validate(value)
    except ValidationError:
        return
    except STUMBLES as error:
        yield Problem((), f"{model.__name__} cannot be read from it: {' '.join(str(error).split())}")


def without(data: object, paths: Set[KeyPath], here: KeyPath = ()) -> object:
    """The data less the keys at these paths, which are known to be wrong, and over which a validator would stumble."""
    if isinstance(data, dict):
        kept = {key: inner for key, inner in data.items() if (*here, key) not in paths}
        return {key: without(inner, paths, (*here, key)) for key, inner in kept.items()}
    if isinstance(data, list):
        return [without(inner, paths, (*here, index)) for index, inner in enumerate(data)]
    return data


def _readable(error: ValidationError, data: object, start: KeyPath) -> Iterator[Problem]:
    """One problem for each value: the members of a union that did not fit are joined."""
    said: dict[KeyPath, list[str]] = {}
    for found in error.errors(include_url=False):
        path = _in_data(found["loc"], data, missing=found["type"] == "missing")
        said.setdefault(path, []).append(_sentence(found))
    for path, sentences in said.items():
        yield Problem((*start, *path), " or ".join(dict.fromkeys(sentences)))


def _sentence(found: Mapping[str, Any]) -> str:
    if found["type"] == "missing":
        return "required, but not there"
    message = " ".join(found["msg"].removeprefix("Value error, ").removeprefix("Input ").split())
    if found["type"] in ("value_error", "too_long"):
        return message
    return f"{message}, got {found['input']!r}" + (BARE_WORDS if isinstance(found["input"], bool) else "")


def _in_data(location: tuple[str | int, ...], data: object, *, missing: bool) -> KeyPath:
    """The part of pydantic's location that the file has; the rest names members of a union."""
    path: list[str | int] = []
    for step in location:
        in_list = isinstance(data, list) and isinstance(step, int) and step < len(data)
        if not (in_list or (isinstance(data, dict) and step in data)):
            return (*path, location[-1]) if missing else tuple(path)
        data = data[step]  # type: ignore[index]
        path.append(step)
    return tuple(path)
