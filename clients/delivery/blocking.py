"""Whether it is safe to block here."""

from __future__ import annotations

import asyncio

from clients.errors import InEventLoop


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_in_event_loop(call: str, instead: str) -> None:
    """Raise `InEventLoop` where a call that blocks would stop an event loop."""
    if in_event_loop():
        raise InEventLoop(call, instead)
