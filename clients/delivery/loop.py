"""An event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs until it is stopped; a daemon, since a client that was never closed must not keep its process."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return self._loop.is_closed()

    def do(self, work: Callable[..., object], *args: Any) -> None:
        """Call it on the loop: at once where this is the loop's thread, else soon; never after the loop has ended."""
        if threading.current_thread() is self._thread:
            work(*args)
            return
        try:
            self._loop.call_soon_threadsafe(work, *args)
        except RuntimeError:  # closed: there is nothing to be done any more
            return

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Wait for a coroutine that runs on the loop.

        Raises:
            TimeoutError: it took longer.
        """
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(timeout)
        except BaseException:  # nobody waits for it any more
            running.cancel()
            raise

    def stop(self) -> None:
        self.do(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()
