"""That the installed Ray has what clients/ray_private.py takes; no cluster is asked."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.serve import context, handle

from clients import ray_private

SOURCE = Path(ray_private.__file__)
NAMES = {"is_initialized", "_init", "_run_router_in_separate_loop", "_by_reference", "_to_object_ref"}
NAMES |= {"_set_global_client"}


def _of_ray(owner: object, *names: str) -> Any:
    """What `owner.name.name` is; fails with what to do where Ray has another name for it now."""
    for name in names:
        if not hasattr(owner, name):
            _mend(f"{getattr(owner, '__name__', owner)}.{name}")
        owner = getattr(owner, name)
    return owner


def _mend(what: str) -> None:
    pytest.fail(f"Ray {ray.__version__} has no {what} any more; mend clients/ray_private.py, which alone uses it")


def test_a_handle_tells_whether_it_is_initialised() -> None:
    assert isinstance(_of_ray(handle, "DeploymentHandle", "is_initialized"), property)


def test_a_handle_is_initialised_with_a_router_of_its_own() -> None:
    parameters = inspect.signature(_of_ray(handle, "DeploymentHandle", "_init")).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):  # then they are fields of the options
        options = _of_ray(handle, "create_init_handle_options")(_run_router_in_separate_loop=True)
        assert _of_ray(options, "_run_router_in_separate_loop") is True
    elif "_run_router_in_separate_loop" not in parameters:
        _mend("DeploymentHandle._init(_run_router_in_separate_loop=...)")


def test_a_handle_can_be_told_to_leave_answers_in_the_object_store() -> None:
    if "_by_reference" not in inspect.signature(_of_ray(handle, "DeploymentHandle", "options")).parameters:
        _mend("DeploymentHandle.options(_by_reference=...)")
    options = _of_ray(handle, "create_dynamic_handle_options")()
    assert "_by_reference" in {field.name for field in fields(options)}


def test_a_response_gives_its_reference_to_who_awaits_it() -> None:
    assert inspect.iscoroutinefunction(_of_ray(handle, "DeploymentResponse", "_to_object_ref"))


def test_the_controller_that_was_looked_up_can_be_forgotten() -> None:
    assert list(inspect.signature(_of_ray(context, "_set_global_client")).parameters) == ["client"]


def test_no_other_private_name_is_used_there() -> None:
    """A new one belongs into the tests above."""
    tree = ast.parse(SOURCE.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}

    assert used - {"options"} == NAMES
