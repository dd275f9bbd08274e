"""The parts of a config's data that more than one question asks about, whatever shape the data has.

A file that is wrong is still read to its end, so each part is empty where the file has something else there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from clients.commands.document import KeyPath

APP: KeyPath = ("applications",)


def mapping(holder: object, *keys: str) -> Mapping[str, Any]:
    """The mapping that these keys lead to."""
    for key in keys:
        holder = holder.get(key) if isinstance(holder, Mapping) else None
    return holder if isinstance(holder, dict) else {}


def application(data: object) -> Mapping[str, Any]:
    applications = data.get("applications") if isinstance(data, dict) else None
    first = applications[0] if isinstance(applications, list) and applications else None
    return first if isinstance(first, dict) else {}


def args(data: object) -> Mapping[str, Any]:
    return mapping(application(data), "args")


def deployments(data: object) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    listed = application(data).get("deployments")
    for index, deployment in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(deployment, dict):
            yield (*APP, 0, "deployments", index), deployment


def named(name: str, data: object) -> tuple[KeyPath, Mapping[str, Any]]:
    """The deployment of this name; where the file has none, an empty one at the path of all of them."""
    found = (each for each in deployments(data) if each[1].get("name") == name)
    return next(found, ((*APP, 0, "deployments"), {}))


def options(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(deployment, "ray_actor_options")


def number(value: object, *, default: float) -> float:
    return value if isinstance(value, int | float) and not math.isnan(value) else default
