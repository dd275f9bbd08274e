"""The names of Ray that are not public, and that delivery needs; nothing else of ours uses any.

tests/clients/test_ray_private.py fails when Ray renames one. Seen in Ray 2.60 and 2.61.
"""

from __future__ import annotations

from typing import Any


def with_router_of_its_own(handle: Any) -> Any:
    """The handle, usable from any thread and without an event loop, in throughput mode too.

    Its router runs on Serve's own thread, one for all handles of the process. Else, in throughput mode, it would be
    bound to whichever loop is the first to call.
    """
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)
    return handle


def by_reference(handle: Any) -> Any:
    """The handle, whose answers stay in the object store; in throughput mode they travel by value otherwise."""
    return handle.options(_by_reference=True)


async def object_ref(response: Any) -> Any:
    """The `ObjectRef` of a call that was sent by reference, as soon as a replica has taken it."""
    return await response._to_object_ref()


def forget_controller(context: Any) -> None:
    """`ray.serve.context` looks Serve's controller up once in a process; after this it does so again."""
    context._set_global_client(None)
