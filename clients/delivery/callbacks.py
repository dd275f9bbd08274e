"""Where callbacks run: on threads of the client's own.

Never on the thread that delivers, since a callback may take its time; never on Ray's, where one call of Ray can wedge
the whole process (ray-project/ray#50980).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

THREADS = 4

_log = logging.getLogger("nli_serve")


class CallbackPool:
    """Runs callbacks, and survives those that raise.

    Args:
        executor: the caller's own, which is not shut down here; None: `THREADS` threads.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._own = None if executor else ThreadPoolExecutor(THREADS, thread_name_prefix="nli-callback")
        self._executor: Executor = executor or self._own  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._here = threading.local()
        self.errors = 0
        """How many callbacks have raised so far."""

    def start(self, work: Callable[[], None]) -> None:
        """Run it soon; on a thread for itself when the executor takes nothing any more."""
        try:
            self._executor.submit(work)
        except RuntimeError:  # shut down: a callback that is registered late runs all the same
            threading.Thread(target=work, name="nli-callback-late", daemon=True).start()

    def call(self, callback: Callable[[Any], object], future: object) -> None:
        """Run one callback now; what it raises is logged and counted."""
        self._here.yes = True
        try:
            callback(future)
        except Exception as error:
            self.note(error)
        finally:
            self._here.yes = False

    def is_here(self) -> bool:
        """Whether this is a callback that asks."""
        return getattr(self._here, "yes", False)

    def note(self, error: BaseException) -> None:
        """A callback has raised."""
        with self._lock:
            self.errors += 1
        _log.error("a callback raised; the other callbacks still run", exc_info=error)

    def close(self, *, wait: bool) -> None:
        if self._own:
            self._own.shutdown(wait=wait)
