"""Values of a config file that name code: whether it can be imported.

Serve's validators import it while they read the file, with the folder of the file on the path, and end with
whatever the import raised.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._common.utils import import_attr

from clients.commands.document import KeyPath, Problem
from clients.commands.parts import APP, application, deployments, mapping

BRING_CODE = {"conda", "container", "image_uri", "pip", "py_executable", "py_modules", "uv", "working_dir"}


def missing_code(data: object, folder: Path) -> Iterator[Problem]:
    """Every import path that leads to nothing that can be called.

    Args:
        data: of the config file.
        folder: of the config file; `nli-serve up` gives it to `serve run` as the place of further modules.
    """
    with _on_path(folder):
        for path, value in _named_code(data):
            if isinstance(value, str) and (what := _failure(value)):
                yield Problem(path, f"{value!r} cannot be imported: {what}; expected module:name, installed here")


def _named_code(data: object) -> Iterator[tuple[KeyPath, object]]:
    for path, deployment in deployments(data):
        policy = mapping(deployment, "autoscaling_config", "policy")
        router = mapping(deployment, "request_router_config")
        yield (*path, "autoscaling_config", "policy", "policy_function"), policy.get("policy_function")
        yield (*path, "request_router_config", "request_router_class"), router.get("request_router_class")
    if not _brings_code(application(data)):
        policy = mapping(application(data), "autoscaling_policy")
        yield (*APP, 0, "autoscaling_policy", "policy_function"), policy.get("policy_function")


def _brings_code(app: Mapping[str, Any]) -> bool:
    """Whether its policy, imported on the cluster, may come from where this machine cannot look."""
    return not BRING_CODE.isdisjoint(mapping(app, "runtime_env"))


def _failure(import_path: str) -> str | None:
    try:
        named = import_attr(import_path)
    except Exception as error:  # the module is the user's, and may raise anything
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None if callable(named) else f"it is {named!r}, nothing that can be called"


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before
