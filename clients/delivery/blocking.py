"""Whether it is safe to block here."""

from __future__ import annotations

import asyncio
import sys
import threading

from clients.errors import InEventLoop


def in_event_loop() -> bool:
    """Whether blocking would stop an event loop that others live on."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not _in_notebook()


def refuse_in_event_loop(call: str, instead: str) -> None:
    """Raise `InEventLoop` where a call that blocks would stop an event loop."""
    if in_event_loop():
        raise InEventLoop(call, instead)


def _in_notebook() -> bool:
    """A cell runs inside the kernel's own event loop, which waits for it anyway."""
    ipython = sys.modules.get("IPython")
    in_shell = ipython is not None and ipython.get_ipython() is not None
    return in_shell and threading.current_thread() is threading.main_thread()
