"""The futures that have not ended: never more than so many."""

from __future__ import annotations

import threading
from typing import Any

from clients.errors import ClientClosed, WindowFull

from .blocking import in_event_loop
from .future import Future


class Window:
    """Lets a future in when there is room.

    Args:
        most: futures inside at a time.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"max_in_flight is {most:,}; it must be 1 or more")
        self.most = most
        self._inside: set[Future[Any]] = set()
        self._changed = threading.Condition()
        self._closed = False

    def enter(self, future: Future[Any], *, block: bool) -> None:
        """Wait for room, then let it in.

        Raises:
            WindowFull: there is no room, and waiting is not wanted, or would stop an event loop.
            ClientClosed: nobody is let in any more.
        """
        with self._changed:
            while not self._closed and len(self._inside) >= self.most:
                if not block or in_event_loop():
                    if sum(not one.done() for one in list(self._inside)) < self.most:
                        break  # who has seen one end need not wait until it has left
                    raise WindowFull(self.most)
                self._changed.wait()
            if self._closed:
                raise ClientClosed
            self._inside.add(future)

    def check(self) -> None:
        """Raise `ClientClosed` when nobody is let in any more."""
        if self._closed:
            raise ClientClosed

    def leave(self, future: Future[Any]) -> None:
        with self._changed:
            self._inside.discard(future)
            self._changed.notify_all()

    def waits(self) -> bool:
        """Whether a future inside has not ended."""
        with self._changed:
            return any(not one.done() for one in list(self._inside))

    def close(self) -> list[Future[Any]]:
        """Let nobody in any more; those who are inside."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return list(self._inside)

    def wait_until_empty(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)
